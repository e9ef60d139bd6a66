"""GPU benchmarks in the shapes of MLPerf's DLRM (Criteo TB, D = 128) and of Criteo Kaggle (D = 16).

    make gpu                                           # GPU tests, then all of this; needs a GPU
    python benchmarks/gpu.py --out build/gpu           # the benchmarks alone
    python benchmarks/gpu.py --device cpu --tiny       # a rehearsal of the code on a CPU: its times mean nothing

Results are checked against the reference before anything is timed. Alternatives take turns in interleaved rounds,
timed by CUDA events; batches take turns within a round. At op level the turns are one CUDA graph, so that the time is
the GPU's and not the host's.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from pathlib import Path

try:
    import torch
except ImportError:
    sys.exit("make gpu: this python has no torch; name one that has: make gpu PYTHON=...")

from gpu_timing import Bench, machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say whether there is a GPU to measure on")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="tiny sizes: a rehearsal")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=240, help="no group of measurements starts later than this")
    parser.add_argument("--rows", type=int, default=0, help="largest table; by default what fits, 40 million at most")
    parser.add_argument("--out", type=Path, default=Path("build/gpu"))
    options = parser.parse_args()
    if options.device == "cuda":
        require_gpu()
        if options.check:
            return
    elif not options.tiny:
        parser.error("--device cpu is for rehearsals: give --tiny")
    from gpu_cases import CASES, Sizes, acceptance

    device = torch.device(options.device)
    torch.manual_seed(0)
    bench = Bench(device, options.tiny, 1 if options.tiny else options.rounds, turns=2 if options.tiny else 8)
    facts = machine(device)
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    sizes = Sizes.of(device, options.tiny, options.rows)
    print(f"full tables: {sizes.full_bytes / 1e9:.1f} GB, largest {max(sizes.rows):,} rows")
    start, failed = time.perf_counter(), []
    for name, case in CASES:
        used = time.perf_counter() - start
        if used > options.seconds:
            print(f"{name}: left out, {used:.0f} s are used up (--seconds)")
            continue
        print(f"\n{name}")
        try:
            case(bench, sizes)
        except Exception:  # noqa: BLE001 - a fault in one group must not cost the results of the others; the exit code tells
            traceback.print_exc()
            failed.append(name)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    facts["largest_table"], facts["full_tables_gb"] = max(sizes.rows), sizes.full_bytes / 1e9
    bench.write(options.out, facts)
    print("\nTargets")
    for line in acceptance(bench):
        print(line)
    print(f"\n{time.perf_counter() - start:.0f} s; written to {options.out}/")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def require_gpu() -> None:
    """Exits with the reason where nothing can be measured."""
    if not torch.cuda.is_available():
        sys.exit("make gpu: torch finds no CUDA device here, so there is nothing to test or measure")
    from robe.ops import cuda

    if not cuda.available:
        sys.exit(f"make gpu: the kernels are not active: {cuda.reason}")


if __name__ == "__main__":
    main()
