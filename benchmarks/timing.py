"""Rounds of alternatives, interleaved so that a disturbance meets all of them, and what they were measured on."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

CLOCKS = {"wall": time.perf_counter, "cpu": time.thread_time}


def interleave(
    alternatives: dict[str, Callable[[], Any]], rounds: int, clock: str = "wall", repeat: int = 1
) -> dict[str, list[float]]:
    """Seconds of every alternative in every round, after two rounds of warming up.

    Args:
        alternatives: what to time, by name.
        rounds: that count.
        clock: "wall", or "cpu" for the time of one thread on a machine that is busy with other work.
        repeat: calls of an alternative in a row, of which the last counts: with 1 it finds the caches as another
            alternative left them, with more as it does in a loop of its own.
    """
    now = CLOCKS[clock]
    seconds: dict[str, list[float]] = {name: [] for name in alternatives}
    for i in range(rounds + 2):
        for name, run in alternatives.items():
            for _ in range(repeat - 1):
                run()
            start = now()
            run()
            if i >= 2:
                seconds[name].append(now() - start)
    return seconds


def quantile(values: list[float], q: float) -> float:
    """The q-quantile by linear interpolation."""
    ordered = sorted(values)
    at = q * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def ratio(seconds: dict[str, list[float]], base: str, name: str) -> float:
    """How many times faster ``name`` is than ``base``: median of the rounds' own ratios."""
    return statistics.median(b / t for b, t in zip(seconds[base], seconds[name], strict=True))


def summary(seconds: dict[str, list[float]], base: str, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """One record per alternative: median and quantiles in ms, and the ratio to ``base``."""
    return [
        {
            **facts,
            "what": name,
            "median_ms": quantile(values, 0.5) * 1e3,
            "p10_ms": quantile(values, 0.1) * 1e3,
            "p90_ms": quantile(values, 0.9) * 1e3,
            "faster_than": base,
            "ratio": ratio(seconds, base, name),
            "ratio_of_p10": quantile(seconds[base], 0.1) / quantile(values, 0.1),
            "rounds": len(values),
        }
        for name, values in seconds.items()
    ]


def machine(clock: str) -> dict[str, Any]:
    """What the numbers were measured on."""
    cpu = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in cpu.read_text().splitlines() if line.startswith("model name")]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    from robe.ops import native

    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "kernels": native.reason,
        "torch": torch.__version__,
        "commit": commit.strip(),
        "clock": clock,
        "load_before": os.getloadavg()[0],
    }


def report(records: list[dict[str, Any]], facts: dict[str, Any], path: Path | None) -> None:
    """Prints the records as a table, and writes them as JSON."""
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    for r in records:
        where = " ".join(f"{k}={r[k]}" for k in ("case", "batch", "slots", "block") if k in r)
        print(
            f"{where:48} {r['what']:34} {r['median_ms']:9.3f} ms  p10 {r['p10_ms']:9.3f}  p90 {r['p90_ms']:9.3f}"
            f"  {r['ratio']:6.2f}x  (p10 {r['ratio_of_p10']:6.2f}x) of {r['faster_than']}"
        )
    if path is not None:
        path.write_text(json.dumps({"machine": facts, "records": records}, indent=1))
