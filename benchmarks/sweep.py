"""Cost of a lookup and of lookup + fused SGD against batch, Z, D and m: measures, and draws docs/benchmarks.svg.

python benchmarks/sweep.py --threads 1 --clock cpu
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt

import robe
from robe.ops import native
from timing import CLOCKS, interleave, machine, quantile

FIELDS = 26
STANDARD = {"batch": 4096, "block": 16, "dim": 16, "slots": 540_000}
SWEEPS = {
    "batch": [1, 16, 256, 2048, 16384],
    "block": [1, 2, 4, 8, 16, 64],
    "dim": [4, 8, 16, 32, 64, 128],
    "slots": [10_000, 100_000, 540_000, 5_000_000, 26_000_000],
}
LABELS = {"batch": "batch", "block": "block size Z", "dim": "dim D (Z = D)", "slots": "slots m"}


def cost(rounds: int, clock: str, batch: int, block: int, dim: int, slots: int) -> tuple[float, float]:
    """Nanoseconds per lookup: forward, and forward + backward + step."""
    tables = [robe.Table(str(i), None, dim) for i in range(FIELDS)]
    collection = robe.RobeEmbeddingCollection(tables, num_slots=slots, block_size=block)
    optimizer = robe.optim.SGD(collection, lr=1e-3)
    ids, grad = torch.randint(0, 2**40, (batch, FIELDS)), torch.randn(batch, FIELDS, dim)

    def forward() -> None:
        with torch.no_grad():
            collection(ids)

    def train() -> None:
        collection(ids).backward(grad)
        optimizer.step()

    seconds = interleave({"forward": forward, "train": train}, rounds, clock)
    forward_ns, train_ns = (quantile(s, 0.5) / (batch * FIELDS) * 1e9 for s in seconds.values())
    return forward_ns, train_ns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "benchmarks.svg")
    options = parser.parse_args()
    if native.library is None:
        raise SystemExit(f"nothing to time: {native.reason}")
    torch.set_num_threads(options.threads)
    facts = machine(options.clock)
    mpl.rcParams["svg.hashsalt"] = "robe"
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.2), layout="constrained")
    for axis, (name, values) in zip(axes, SWEEPS.items(), strict=True):
        costs = []
        for value in values:
            where = {**STANDARD, name: value}
            if name == "dim":
                where["block"] = value
            costs.append(cost(options.rounds, options.clock, **where))
            print(
                f"{name}={value}: forward {costs[-1][0]:.1f} ns, training {costs[-1][1]:.1f} ns per lookup", flush=True
            )
        for line, label in zip(zip(*costs, strict=True), ("lookup", "lookup + fused SGD"), strict=True):
            axis.plot(values, line, marker="o", label=label)
        axis.set(xscale="log", yscale="log", xlabel=LABELS[name])
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("ns per lookup")
    axes[0].legend()
    figure.suptitle(
        f"26 fields; elsewhere B=4096, Z=16, D=16, m=540,000. {facts['cpu']}, {facts['threads']} thread(s), "
        f"{facts['kernels']}, commit {facts['commit']}, {facts['clock']} time",
        fontsize=9,
    )
    figure.savefig(options.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
