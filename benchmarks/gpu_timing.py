"""Time on a GPU: CUDA events around graph replays, alternatives in interleaved rounds, records, tables and plots."""

from __future__ import annotations

import functools
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from timing import quantile

Run = Callable[[int], Any]  # takes the number of the batch whose turn it is


@dataclass
class Bench:
    """A device, the size of everything, and what was measured on it."""

    device: torch.device
    tiny: bool
    rounds: int
    turns: int  # batches that take turns, so that rows of full tables come from memory
    records: list[dict[str, Any]] = field(default_factory=list)
    keeper: Any = None

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @functools.cached_property
    def pool(self) -> Any:
        """Memory that all graphs share: they never run at once, and nobody reads what they leave."""
        pool = torch.cuda.graph_pool_handle()
        counter = torch.zeros(1, device=self.device)
        counter += 1
        self.keeper = (
            torch.cuda.CUDAGraph()
        )  # torch forgets a pool, and does not like to see it again, with its last graph
        with torch.cuda.graph(self.keeper, pool=pool):
            counter += 1
        return pool

    def graph(self, run: Run) -> Callable[[], None]:
        """All turns of ``run`` as one CUDA graph: what the GPU does, without the host's launches."""
        return self.captured(self.eager(run))

    def captured(self, run: Callable[[], Any]) -> Callable[[], None]:
        """One call of ``run`` as a CUDA graph; on a CPU the call itself."""
        if not self.on_gpu:
            return run
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            run()
        return graph.replay

    def eager(self, run: Run) -> Callable[[], None]:
        """All turns of ``run``, launched one by one."""

        def every() -> None:
            for turn in range(self.turns):
                run(turn)

        return every

    def seconds(self, run: Callable[[], None]) -> float:
        if not self.on_gpu:
            start = time.perf_counter()
            run()
            return time.perf_counter() - start
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    def measure(self, group: str, batch: int, alternatives: dict[str, Callable[[], None]], **facts: Any) -> None:
        """Times alternatives in interleaved rounds; ratios are to the first, median of the rounds' own ratios."""
        seconds: dict[str, list[float]] = {name: [] for name in alternatives}
        for number in range(self.rounds + 2):
            for name, run in alternatives.items():
                elapsed = self.seconds(run) / self.turns
                if number >= 2:
                    seconds[name].append(elapsed)
        base = next(iter(alternatives))
        for name, values in seconds.items():
            ratios = [b / t for b, t in zip(seconds[base], values, strict=True)]
            record = {
                "group": group,
                "batch": batch,
                **facts,
                "what": name,
                "median_ms": quantile(values, 0.5) * 1e3,
                "p10_ms": quantile(values, 0.1) * 1e3,
                "p90_ms": quantile(values, 0.9) * 1e3,
                "samples_per_second": batch / quantile(values, 0.5),
                "ratio": statistics.median(ratios),
                "faster_than": base,
                "rounds": self.rounds,
            }
            self.records.append(record)
            print(
                f"{group:30} B={batch:<7} {name:42} {record['median_ms']:9.4f} ms  "
                f"p10 {record['p10_ms']:9.4f}  p90 {record['p90_ms']:9.4f}  "
                f"{record['samples_per_second'] / 1e6:9.2f} M/s  {record['ratio']:6.2f}x",
                flush=True,
            )

    def find(self, group: str, batch: int, what: str) -> dict[str, Any] | None:
        """The record of one measurement, or None where it was not made."""
        return next(
            (r for r in self.records if (r["group"], r["batch"], r["what"]) == (group, batch, what)),
            None,
        )

    def write(self, folder: Path, facts: dict[str, Any]) -> None:
        """JSON, and plots where matplotlib is installed."""
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"machine": facts, "records": self.records}, indent=1)
        (folder / "gpu.json").write_text(text)
        try:
            from matplotlib import pyplot as plt
        except ImportError as error:
            print(f"plots: left out, {error}")
            return
        groups = list(dict.fromkeys(r["group"] for r in self.records))
        for group in groups:
            figure, axis = plt.subplots(figsize=(8, 5), layout="constrained")
            names = list(dict.fromkeys(r["what"] for r in self.records if r["group"] == group))
            batches = {r["batch"] for r in self.records if r["group"] == group}
            rates = {
                name: [(r["batch"], r["samples_per_second"] / 1e6) for r in self.records
                       if (r["group"], r["what"]) == (group, name)]
                for name in names
            }  # fmt: skip
            if len(batches) == 1:
                axis.barh(names, [points[0][1] for points in rates.values()])
                axis.invert_yaxis()
                axis.set(xlabel="million samples per second", title=f"{group}, B={batches.pop()}")
            else:
                for name, points in rates.items():
                    axis.plot(*zip(*points, strict=True), marker="o", label=name)
                axis.set(xscale="log", yscale="log", xlabel="batch", ylabel="million samples per second", title=group)
                axis.legend(fontsize=7)
            axis.grid(alpha=0.3)
            figure.savefig(folder / f"gpu-{group.replace(' ', '-').replace(',', '')}.svg")
            plt.close(figure)


def commit() -> str:
    """The commit, or what the machine says instead."""
    try:
        done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown: no git here"
    return done.stdout.strip() or "unknown: no repository here"


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers were measured on."""
    from robe.ops import cuda, native

    facts: dict[str, Any] = {"torch": torch.__version__, "commit": commit(), "device": str(device)}
    if device.type == "cuda":
        import triton

        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "gpu": properties.name,
            "memory_gb": round(properties.total_memory / 1e9, 1),
            "multiprocessors": properties.multi_processor_count,
            "l2_mb": round(properties.L2_cache_size / 1e6, 1),
            "cuda": torch.version.cuda,
            "triton": triton.__version__,
            "kernels": cuda.reason,
        }
    else:
        facts["kernels"] = native.reason
    return facts


def zipf_or_uniform(rows: list[int], batch: int, skew: str, number: int, device: torch.device) -> Tensor:
    """int64 [B, F]: uniform, or Zipf-like (the logarithm of the id is uniform); the same on every device."""
    generator = torch.Generator().manual_seed(number)
    u = torch.rand(batch, len(rows), dtype=torch.float64, generator=generator)
    limit = torch.tensor(rows, dtype=torch.float64)
    drawn = u * limit if skew == "uniform" else limit**u - 1
    return drawn.long().clamp_(max=torch.tensor(rows) - 1).to(device)
