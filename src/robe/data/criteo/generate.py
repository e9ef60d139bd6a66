"""Raw files in the exact format of Criteo's, with the click model of :mod:`robe.data.synthetic` planted in them."""

from __future__ import annotations

import gzip
import io
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from robe.checks import require_positive
from robe.data.criteo.columns import DENSE_NAMES, FIELD_NAMES, NUM_DENSE, NUM_FIELDS, TERABYTE_DAYS
from robe.data.mixing import random_words, stream_key, uniform
from robe.data.progress import bar
from robe.data.synthetic import ClickModel, SyntheticRows, SyntheticSpec

# Share of empty fields, I1 to I13 and C1 to C26: of the kind that the real files have, in round numbers.
_MISSING: Final = (
    *(0.45, 0.0, 0.21, 0.22, 0.03, 0.22, 0.04, 0.0, 0.04, 0.45, 0.04, 0.76, 0.22),
    *(0.0, 0.0, 0.03, 0.03, 0.0, 0.12, 0.0, 0.0, 0.0, 0.0, 0.0, 0.03, 0.0),
    *(0.0, 0.0, 0.03, 0.0, 0.0, 0.44, 0.44, 0.03, 0.76, 0.0, 0.03, 0.44, 0.44),
)
_NEGATIVE: Final = 0.1  # of I2, which counts from -3 on
_ROWS: Final = 8192


def generate_kaggle(
    out: str | Path, rows: int, *, scale: float = 1.0, seed: int = 0, overwrite: bool = False, progress: bool = False
) -> Path:
    """Writes a file in the format of Criteo Kaggle's ``train.txt``.

    Args:
        out: the file to make; compressed if its name ends in ``.gz``.
        rows: lines.
        scale: factor on the 26 cardinalities of the real file. Default 1.0.
        seed: of everything. Default 0.
        overwrite: replace an existing file. Default False.
        progress: show a progress bar on standard error. Default False.

    Raises:
        ValueError: ``rows`` or ``scale`` is out of range.
        FileExistsError: ``out`` exists and ``overwrite`` is False.
    """
    out = Path(out)
    model = ClickModel(SyntheticSpec(rows=rows, scale=scale, rank=1, seed=seed))
    with bar("generating", rows, "rows", progress) as advance:
        for piece in _write(model, 0, rows, out, overwrite):
            advance(piece)
    return out


def generate_terabyte(
    out: str | Path,
    rows: int,
    *,
    days: int = TERABYTE_DAYS,
    compress: bool = False,
    scale: float = 1.0,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = False,
) -> list[Path]:
    """Writes files in the format of Criteo Terabyte's ``day_0`` to ``day_23``, in the folder ``out``.

    Args:
        out: the folder; made if it is not there.
        rows: lines of all days together, dealt evenly.
        days: number of files. Default 24.
        compress: write ``day_0.gz`` and so on. Default False.
        scale: factor on the 26 cardinalities of Criteo Kaggle. Default 1.0.
        seed: of everything. Default 0.
        overwrite: replace existing files. Default False.
        progress: show a progress bar on standard error. Default False.

    Raises:
        ValueError: a number is out of range.
        FileExistsError: a file exists and ``overwrite`` is False.
    """
    require_positive("days", days)
    if rows < days:
        raise ValueError(f"rows: expected at least one for each of {days} days, got {rows}")
    folder = Path(out)
    model = ClickModel(SyntheticSpec(rows=rows, scale=scale, rank=1, seed=seed))
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"day_{day}{'.gz' if compress else ''}" for day in range(days)]
    with bar("generating", rows, "rows", progress) as advance:
        for day, file in enumerate(files):
            for piece in _write(model, rows * day // days, rows * (day + 1) // days, file, overwrite):
                advance(piece)
    return files


def _write(model: ClickModel, start: int, stop: int, file: Path, overwrite: bool) -> Iterator[int]:
    if file.exists() and not overwrite:
        raise FileExistsError(f"out: {file} exists; name another output, or overwrite it (overwrite=True, --overwrite)")
    partial = file.with_name(f".{file.name}.partial")
    try:
        with partial.open("wb") as stream, ThreadPoolExecutor(2) as pool:
            # mtime and name left out: equal seeds give equal bytes.
            packed = gzip.GzipFile("", "wb", 6, stream, mtime=0) if re.search(r"\.gz$", file.name) else None
            bounds = [(lo, min(lo + _ROWS, stop)) for lo in range(start, stop, _ROWS)]
            for group in range(0, len(bounds), 16):
                for text, (lo, hi) in zip(
                    pool.map(lambda b: _lines(model, *b), bounds[group : group + 16]),
                    bounds[group : group + 16],
                    strict=True,
                ):
                    (packed or stream).write(text)
                    yield hi - lo
            if packed:
                packed.close()
        partial.replace(file)
    except BaseException:
        if partial.exists():
            os.unlink(partial)
        raise


def _lines(model: ClickModel, start: int, stop: int) -> bytes:
    rows = model.rows(start, stop)
    present = _present(model.spec.seed, start, stop)
    columns: list[pl.Series] = [pl.Series("label", rows.label.astype(np.int8))]
    counts = _counts(model.spec.seed, rows, start, stop)
    for j, name in enumerate(DENSE_NAMES):
        columns.append(pl.Series(name, pa.array(counts[:, j], mask=~present[:, j])))
    for f, name in enumerate(FIELD_NAMES):
        columns.append(pl.Series(name, _hex(model.spec.seed, f, rows.ids[:, f], present[:, NUM_DENSE + f])))
    text = io.BytesIO()
    pl.DataFrame(columns).write_csv(text, include_header=False, separator="\t", null_value="", quote_style="never")
    return text.getvalue()


def _present(seed: int, start: int, stop: int) -> NDArray[np.bool_]:
    width = NUM_DENSE + NUM_FIELDS
    u = uniform(random_words(stream_key(seed, 11), np.arange(start * width, stop * width)))
    return u.reshape(-1, width) >= np.array(_MISSING)


def _counts(seed: int, rows: SyntheticRows, start: int, stop: int) -> NDArray[np.int64]:
    counts = np.rint(np.expm1(rows.dense.astype(np.float64))).astype(np.int64)
    words = random_words(stream_key(seed, 12), np.arange(start, stop))
    below = uniform(words) < _NEGATIVE
    counts[below, 1] = -1 - (words[below] % np.uint64(3)).astype(np.int64)
    return counts


@cache
def _four_digits() -> NDArray[np.uint32]:
    return np.array([b"%04x" % word for word in range(65536)], dtype="S4").view("<u4")


def _hex(seed: int, field: int, ids: NDArray[np.int64], present: NDArray[np.bool_]) -> pa.Array:
    """The tokens of ``ids``: a bijection of 32-bit words per field, in eight hexadecimal digits."""
    x = ids.astype(np.uint32) + np.uint32(stream_key(seed, 10, field) & 0xFFFFFFFF)
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    four = _four_digits()
    digits = np.stack([four[x >> np.uint32(16)], four[x & np.uint32(0xFFFF)]], axis=1)
    return pa.StringArray.from_buffers(
        len(x),
        pa.py_buffer(np.arange(0, 8 * len(x) + 1, 8, dtype=np.int32)),
        pa.py_buffer(digits),
        pa.py_buffer(np.packbits(present, bitorder="little")),
        int((~present).sum()),
    )
