"""Criteo's raw files to batches, on generated lines.

    python benchmarks/data.py --folder /tmp/criteo --rows 5000000 --rounds 3 --json result.json

Needs about 1 KB of disk a line in ``--folder``, and removes what it made. Checks the rows against a plain Python reader
before it times anything. Every measurement has a process of its own, in which it is done twice: memory that the system
has to find first ("fresh") costs a CSV reader more than one that streams, so both figures are given.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from robe.data import CriteoSpec, Loader, PreparedDataset, generate_kaggle, prepare_criteo
from timing import machine, quantile

BATCH = 16384


def gate(folder: Path) -> None:
    """Rows of a small file, value by value against a plain reader; and every row of an epoch once."""
    file = generate_kaggle(folder / "gate.txt", 20_000, overwrite=True)
    spec = CriteoSpec("criteo-kaggle", split="none")
    dataset = prepare_criteo(file, folder / "gate", spec, overwrite=True, piece_bytes=1 << 20)
    columns = dataset.split("train").columns(0, 20_000)
    lines = [line.split("\t") for line in file.read_text().splitlines()]
    assert columns.label.tolist() == [float(parts[0]) for parts in lines]
    assert columns.ids is not None
    assert columns.ids.tolist() == [[int(token or "0", 16) for token in parts[14:]] for parts in lines]
    dense = [[math.log1p(max(int(count or 0), 0)) for count in parts[1:14]] for parts in lines]
    assert np.array_equal(columns.dense, np.array(dense, dtype=np.float32))
    seen = torch.cat([batch.ids for batch in Loader(dataset, "train", 1000)])
    order = np.lexsort(columns.ids.T)
    assert np.array_equal(seen.numpy()[np.lexsort(seen.numpy().T)], columns.ids[order])


def read_with_polars(file: Path, _: Path) -> None:
    pl.read_csv(file, separator="\t", has_header=False)


def prepare_direct(file: Path, out: Path) -> None:
    prepare_criteo(file, out, CriteoSpec("criteo-kaggle"))


def prepare_vocabulary(file: Path, out: Path) -> None:
    prepare_criteo(file, out, CriteoSpec("criteo-kaggle", ids="vocabulary"))


def load(data: Path, _: Path) -> None:
    for _ in Loader(PreparedDataset.open(data), "train", BATCH):
        pass


def load_with_torch(data: Path, _: Path) -> None:
    # What can be had in a while: an eighth of the rows.
    columns = PreparedDataset.open(data).split("train").columns(0, rows_of(data, load_with_torch))
    tensors = TensorDataset(*map(torch.from_numpy, (columns.dense, columns.ids, columns.label)))  # type: ignore[arg-type]
    for _ in DataLoader(tensors, BATCH, shuffle=True):
        pass


def rows_of(data: Path, what: Callable[[Path, Path], None]) -> int:
    rows = PreparedDataset.open(data).rows("train")
    return rows // 8 if what is load_with_torch else rows


MEASURED: dict[str, Callable[[Path, Path], None]] = {
    "polars.read_csv": read_with_polars,
    "prepare, direct ids": prepare_direct,
    "prepare, vocabulary": prepare_vocabulary,
    "Loader": load,
    "TensorDataset + DataLoader": load_with_torch,
}


def child(name: str, source: Path, out: Path) -> None:
    """Measures twice, and prints seconds and peak memory as JSON."""
    seconds = []
    for _ in range(2):
        shutil.rmtree(out, ignore_errors=True)
        start = time.perf_counter()
        MEASURED[name](source, out)
        seconds.append(time.perf_counter() - start)
    shutil.rmtree(out, ignore_errors=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"fresh": seconds[0], "again": seconds[1], "peak_bytes": peak}))


def measure(name: str, source: Path, out: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", name, str(source), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def rounds(
    names: list[str], base: str, source: Path, out: Path, rows: Callable[[str], int], count: int
) -> list[dict[str, Any]]:
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(count):
        for name in names:
            found[name].append(measure(name, source, out))
    records = []
    for name, values in found.items():
        record: dict[str, Any] = {"what": name, "rows": rows(name), "rounds": count, "compared_with": base}
        for kind in ("fresh", "again"):
            rates = [rows(name) / value[kind] for value in values]
            bases = [rows(base) / value[kind] for value in found[base]]
            record |= {f"{kind}_rows_per_second": statistics.median(rates), f"{kind}_p10": quantile(rates, 0.1)}
            record[f"{kind}_ratio"] = statistics.median(a / b for a, b in zip(rates, bases, strict=True))
        record["peak_mb"] = max(value["peak_bytes"] for value in values) / 1e6
        records.append(record)
        print(
            f"{name:28} {record['fresh_rows_per_second']:12,.0f} rows/s fresh  {record['again_rows_per_second']:12,.0f}"
            f" again  {record['fresh_ratio']:6.2f} and {record['again_ratio']:6.2f} times {base}"
            f"  peak {record['peak_mb']:,.0f} MB"
        )
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("bench-data"))
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        name, source, out = arguments.child
        child(name, Path(source), Path(out))
        return
    folder = arguments.folder
    folder.mkdir(parents=True)
    try:
        gate(folder)
        facts = {**machine("wall"), "lines": arguments.rows}
        print(", ".join(f"{key} {value}" for key, value in facts.items()))
        file = generate_kaggle(folder / "train.txt", arguments.rows)
        names = ["polars.read_csv", "prepare, direct ids", "prepare, vocabulary"]
        records = rounds(names, names[0], file, folder / "out", lambda _: arguments.rows, arguments.rounds)
        small = generate_kaggle(folder / "small.txt", arguments.rows // 5)
        peak = measure("prepare, direct ids", small, folder / "out")["peak_bytes"] / 1e6
        print(f"peak of a fifth of the lines, direct ids: {peak:,.0f} MB")
        prepare_direct(file, folder / "data")
        read_all(folder / "data")
        names = ["TensorDataset + DataLoader", "Loader"]
        rows = {name: rows_of(folder / "data", MEASURED[name]) for name in names}
        records += rounds(names, names[0], folder / "data", folder / "none", rows.__getitem__, arguments.rounds)
        if arguments.json:
            content = {"machine": facts, "records": records, "peak_mb_of_a_fifth": peak}
            arguments.json.write_text(json.dumps(content, indent=1))
    finally:
        shutil.rmtree(folder)


def read_all(data: Path) -> None:
    """Brings the shards into the page cache."""
    for file in data.rglob("*.arrow"):
        file.read_bytes()


if __name__ == "__main__":
    main()
