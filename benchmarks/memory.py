"""Peak memory of training embeddings in the shape of Criteo Kaggle, B = 2048: each optimizer in a process of its own.

python benchmarks/memory.py --slots 540000
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys

import torch

import robe
from cpu import DIM, ROWS, draw_ids, tables

OPTIMIZERS = ("SGD", "Adagrad", "Adam")
FULL = sum(ROWS) * DIM * 4


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(name: str, slots: int, steps: int) -> int:
    """Bytes by which the peak grows from before the collection is made to after its last step."""
    batches = [draw_ids(2048, "uniform", i) for i in range(steps)]
    grad = torch.randn(2048, len(ROWS), DIM)
    train(name, 1000, [ids[:8] for ids in batches[:2]], grad[:8])  # whatever is imported at the first step
    before = peak()
    train(name, slots, batches, grad)
    return peak() - before


def train(name: str, slots: int, batches: list[torch.Tensor], grad: torch.Tensor) -> None:
    collection = robe.RobeEmbeddingCollection(tables(), num_slots=slots)
    optimizer = getattr(robe.optim, name)(collection, lr=1e-3)
    for ids in batches:
        optimizer.zero_grad()
        collection(ids).backward(grad)
        optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, default=540_000)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--only", choices=OPTIMIZERS, help="measure in this process, and print bytes")
    options = parser.parse_args()
    if options.only:
        print(measure(options.only, options.slots, options.steps))
        return
    print(f"full tables: {FULL / 1e6:.0f} MB without gradients and states; 1/50 of them is {FULL / 50e6:.1f} MB")
    for name in OPTIMIZERS:
        command = [
            sys.executable,
            __file__,
            "--only",
            name,
            "--slots",
            str(options.slots),
            "--steps",
            str(options.steps),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        print(f"{name:8} {int(done.stdout) / 1e6:6.1f} MB")


if __name__ == "__main__":
    main()
