"""The work on one piece. Pieces do not depend on each other: any thread, process or machine may do any of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from robe.data.criteo.codes import write_codes
from robe.data.criteo.columns import NUM_DENSE, NUM_FIELDS
from robe.data.criteo.journal import Journal, Piece
from robe.data.criteo.parse import MARGIN, Rows, parse
from robe.data.criteo.plain import shown
from robe.data.criteo.raw import Buffer, RawFile
from robe.data.criteo.spec import CriteoSpec
from robe.data.criteo.splits import NAMES, Splitter
from robe.data.format import DataError, ShardInfo
from robe.data.writer import rows_array, write_shard

ROWS = "rows"
DONE, READ = "done", "read"  # journals: of the data set's shards; of the first of two passes
_BLOCK = 1 << 18  # bytes that stay in the cache
_MALLOC = (32 << 20) - (1 << 16)


@dataclass(frozen=True)
class Task:
    """All that a worker needs to know.

    Args:
        folder: of the data set in the making; workers on other machines see it under the same name.
        spec: what to make.
        paths: of the raw files.
        piece_bytes: S.
        counts: per raw file, the lines of each piece, where the split must be known while reading; else None.
    """

    folder: Path
    spec: CriteoSpec
    paths: tuple[str, ...]
    piece_bytes: int
    counts: tuple[tuple[int, ...], ...] | None


Unit = tuple[int, int | None]
"""File and piece; None for all pieces of a compressed file, which can only be read from its beginning."""

_own = threading.local()


def read_unit(
    task: Task, unit: Unit, done: Collection[tuple[int, int]], advance: Callable[[float], None] = lambda _: None
) -> list[Piece]:
    """Reads a unit and writes its shards; pieces that are ``done`` are skipped.

    Returns the new pieces; ``advance`` is told the bytes of the file that were read.
    """
    file, number = unit
    raw = RawFile(task.paths[file], task.piece_bytes)
    buffer, journal = _buffer(), Journal(task.folder, READ if task.spec.two_passes else DONE)
    made = []
    if number is not None:
        raw.read(number, buffer)
        made.append(_read_piece(task, file, number, buffer, raw))
        journal.commit(made[-1])
        advance(raw.bytes / (raw.pieces or 1))
        return made
    seen = 0
    for piece in raw.stream(buffer):
        if (file, piece) not in done:
            made.append(_read_piece(task, file, piece, buffer, raw))
            journal.commit(made[-1])
        advance(raw.position - seen)
        seen = raw.position
    return made


def count_unit(paths: tuple[str, ...], piece_bytes: int, unit: Unit) -> list[int]:
    """Lines of every piece of a unit."""
    file, number = unit
    raw, buffer = RawFile(paths[file], piece_bytes), _buffer()
    if number is not None:
        raw.read(number, buffer)
        return [_lines(buffer)]
    return [_lines(buffer) for _ in raw.stream(buffer)]


def _buffer() -> Buffer:
    if not hasattr(_own, "buffer"):
        # glibc gives memory of this size and below back to the system, and takes page faults to have it again, until
        # a larger one was freed once. It doubles the speed of two threads.
        np.empty(_MALLOC, dtype=np.uint8)
        _own.buffer = Buffer()
        _own.rows = Rows.allocate(0)
    buffer: Buffer = _own.buffer
    return buffer


def _lines(buffer: Buffer) -> int:
    text = np.frombuffer(buffer.text, dtype=np.uint8)
    return sum(int(np.count_nonzero(text[at : at + _BLOCK] == ord("\n"))) for at in range(0, len(text), _BLOCK))


def _read_piece(task: Task, file: int, number: int, buffer: Buffer, raw: RawFile) -> Piece:
    spec = task.spec
    lines = _lines(buffer)
    if len(_own.rows.label) < lines:
        _own.rows = Rows.allocate(lines + lines // 16)
    rows: Rows = _own.rows
    rows.reset("log1p" if spec.numeric_transform == "log1p" else "none")
    stop = MARGIN + buffer.size
    if buffer.truncated:
        # What is left of the last line may look like a whole one.
        stop = max(buffer.data.rfind(b"\n", MARGIN, stop - 1) + 1, MARGIN)
    parse(buffer.data, MARGIN, stop, rows)
    if buffer.truncated:
        tail = bytes(buffer.data[stop : MARGIN + buffer.size - 1])
        rows.malformed.append((rows.lines, "the gzip data end in the middle of the file", shown(tail[:250])))
        rows.lines += 1
    n = rows.count
    if not rows.lines == lines == n + len(rows.malformed):
        raise RuntimeError(f"{raw.path}: {lines} lines, {rows.lines} read, {n} good, {len(rows.malformed)} malformed")
    label, dense, tokens = rows.label[:n], rows.dense[:n], rows.tokens[:n]
    if spec.max_ind_range:
        tokens %= spec.max_ind_range
    made = Piece(
        file=file,
        piece=number,
        lines=lines,
        malformed=tuple(rows.malformed),
        missing=tuple(rows.missing.tolist()),
        truncated=buffer.truncated,
        clicks={},
        shards={},
    )
    if not n:
        return made
    split: NDArray[np.uint8] | str = "all"
    if task.counts is not None:
        split = split_rows(_splitter(task), made, sum(task.counts[file][:number]))
    clicks: dict[str, int] = {}
    shards: dict[str, ShardInfo] = {}
    if spec.two_passes:
        counted = _trains(split, n) if spec.vocabulary_from == "train" else None
        shards = write_codes(task.folder, made.name, label, dense, tokens, counted)
        clicks["all"] = int(np.count_nonzero(label))
    else:
        for part, index in parts(split, n):
            clicks[part] = int(np.count_nonzero(label[index]))
            shards[part] = write_rows(task.folder, made.name, part, label[index], dense[index], tokens[index])
    update: dict[str, Any] = {"clicks": clicks, "shards": shards}
    if spec.numeric_transform == "minmax":
        update |= {"low": tuple(dense.min(axis=0).tolist()), "high": tuple(dense.max(axis=0).tolist())}
    return made.model_copy(update=update)


def split_rows(splitter: Splitter, piece: Piece, first_line: int) -> NDArray[np.uint8] | str:
    """The split of every row of ``piece``, or of all."""
    split = splitter.codes(piece.file, first_line, piece.lines)
    if isinstance(split, str) or not piece.malformed:
        return split
    return np.delete(split, [line for line, _, _ in piece.malformed])


def write_rows(
    folder: Path,
    name: str,
    split: str,
    label: NDArray[np.float32],
    dense: NDArray[np.float32],
    ids: NDArray[np.int64],
) -> ShardInfo:
    """Writes the rows of piece ``name`` that are of ``split``: label [n], dense [n, 13], ids [n, 26]."""
    record = pa.RecordBatch.from_pydict(
        {
            "label": pa.array(label, pa.float32()),
            "dense": rows_array(dense, NUM_DENSE, pa.float32()),
            "ids": rows_array(ids, NUM_FIELDS, pa.int64()),
        }
    )
    return write_shard(folder, f"{ROWS}/{name}{'' if split == 'all' else '.' + split}.arrow", record)


def parts(split: NDArray[np.uint8] | str, n: int) -> list[tuple[str, slice | NDArray[np.int64]]]:
    """Names and rows of the splits that have rows; a slice where it can be one, which is no copy."""
    if not n:
        return []
    if isinstance(split, str):
        return [(split, slice(0, n))]
    found: list[tuple[str, slice | NDArray[np.int64]]] = []
    for code, name in enumerate(NAMES):
        rows = np.flatnonzero(split == code)
        if len(rows):
            first, last = int(rows[0]), int(rows[-1]) + 1
            found.append((name, slice(first, last) if last - first == len(rows) else rows))
    return found


def _trains(split: NDArray[np.uint8] | str, n: int) -> NDArray[np.bool_]:
    return np.full(n, split == "train") if isinstance(split, str) else split == NAMES.index("train")


@lru_cache(maxsize=1)
def _splitter(task: Task) -> Splitter:
    assert task.counts is not None
    return Splitter(task.spec, [sum(counts) for counts in task.counts])


def require_rows(pieces: Collection[Piece]) -> None:
    """Raises DataError when no line is good."""
    if not any(piece.clicks for piece in pieces):
        first = next((bad for piece in pieces for bad in piece.malformed), None)
        raise DataError("the files have no good line" + (f"; the first: {first[1]}" if first else ""))
