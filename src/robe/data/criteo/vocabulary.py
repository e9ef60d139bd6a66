"""The vocabulary of one field, made of the distinct tokens of all pieces, in memory that does not grow with them.

Tokens are taken in ranges that fit into memory, merged, and appended to files; so these are sorted by token. Then ids
are the ranks of a 64-bit key per token (its first line, or its count), ranked in ranges of the key that fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from robe.data.criteo.codes import Distinct
from robe.data.criteo.spec import CriteoSpec

DEFINITION: Final = (
    "the row of the token in the field's vocabulary file, from 0; with an unknown id, 1 + that row, and 0 for tokens "
    "that are not in it. A missing token is the token 0"
)
_ENTRIES: Final = 8 << 20  # that are merged or ranked together: about 0.5 GB at most


class Vocabulary:
    """Tokens of one field and their ids, in files that are memory-mapped.

    Args:
        folder: of the files.
        field: number of the field.
        unknown: True when id 0 is for tokens that are not in it.
    """

    def __init__(self, folder: Path, field: int, unknown: bool) -> None:
        self._tokens, self._ids = folder / f"{field:02d}.tokens", folder / f"{field:02d}.ids"
        self._counts = folder / f"{field:02d}.counts"
        self._unknown = unknown
        self.size = self._tokens.stat().st_size // 4

    @property
    def num_embeddings(self) -> int:
        """Rows of the table."""
        return self.size + self._unknown

    def lookup(self, tokens: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Ids of sorted ``tokens``."""
        if not self.size:
            return np.zeros(len(tokens), dtype=np.uint32)
        known, ids = _open(self._tokens, np.uint32), _open(self._ids, np.uint32)
        at = np.minimum(np.searchsorted(known, tokens), self.size - 1)
        return np.where(known[at] == tokens, ids[at] + np.uint32(self._unknown), np.uint32(0))

    def save(self, file: Path) -> None:
        """Writes tokens and counts in the order of ids, as Parquet."""
        schema = pa.schema({"token": pa.uint32(), "count": pa.uint64()})
        with pq.ParquetWriter(file, schema) as writer:
            if not self.size:
                return
            tokens, ids = _open(self._tokens, np.uint32), _open(self._ids, np.uint32)
            counts = _open(self._counts, np.uint64)
            inverse = _make(self._ids.with_suffix(".inverse"), np.uint32, self.size)
            for part in _slices(self.size):
                inverse[ids[part]] = np.arange(part.start, part.stop, dtype=np.uint32)
            for part in _slices(self.size):
                rows = inverse[part]
                writer.write_batch(pa.RecordBatch.from_arrays([tokens[rows], counts[rows]], schema=schema))


def make_vocabulary(folder: Path, field: int, pieces: Sequence[Distinct], spec: CriteoSpec) -> Vocabulary:
    """Merges the tokens of ``field`` from all ``pieces``, which are in order of the lines."""
    names = {name: folder / f"{field:02d}.{name}" for name in ("tokens", "counts", "firsts", "ids")}
    with (
        names["tokens"].open("wb") as to_tokens,
        names["counts"].open("wb") as to_counts,
        names["firsts"].open("wb") as to_firsts,
    ):
        for tokens, counts, firsts in _merged(field, pieces):
            kept = counts >= spec.min_count
            for stream, values in ((to_tokens, tokens), (to_counts, counts), (to_firsts, firsts)):
                stream.write(values[kept].tobytes())
    size = names["tokens"].stat().st_size // 4
    if not size:
        names["ids"].touch()
        return Vocabulary(folder, field, spec.has_unknown)
    ids = _make(names["ids"], np.uint32, size)
    if spec.order == "value":
        for part in _slices(size):
            ids[part] = np.arange(part.start, part.stop, dtype=np.uint32)
    else:
        _rank(_open(names["firsts"], np.uint64), ids)
        if spec.order == "frequency":  # equal counts by first line
            keys = _make(folder / f"{field:02d}.keys", np.uint64, size)
            counts = _open(names["counts"], np.uint64)
            for part in _slices(size):
                rarity = np.uint64(0xFFFFFFFF) - np.minimum(counts[part], np.uint64(0xFFFFFFFF))
                keys[part] = (rarity << np.uint64(32)) | ids[part]
            _rank(keys, ids)
    ids.flush()
    return Vocabulary(folder, field, spec.has_unknown)


def _merged(
    field: int, pieces: Sequence[Distinct]
) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.uint64], NDArray[np.uint64]]]:
    """Token uint32, lines uint64 and first line uint64, sorted by token, in parts."""
    columns = [piece.field(field) for piece in pieces]
    bounds = _token_bounds(columns)
    for low, high in pairwise(bounds):
        parts = []
        for number, (token, count, first) in enumerate(columns):
            part = slice(*np.searchsorted(token, np.array([low, high], dtype=np.uint64)).tolist())
            parts.append((token[part], count[part], np.uint64(number << 32) + first[part]))
        tokens, counts, firsts = (np.concatenate(column) for column in zip(*parts, strict=True))
        if not len(tokens):
            continue
        # Pieces are in order, so the first of equal tokens is the earliest.
        words = (tokens.astype(np.uint64) << np.uint64(32)) | np.arange(len(tokens), dtype=np.uint64)
        words.sort()
        rows = words & np.uint64(0xFFFFFFFF)
        tokens = (words >> np.uint64(32)).astype(np.uint32)
        starts = np.flatnonzero(np.concatenate([[True], tokens[1:] != tokens[:-1]]))
        yield tokens[starts], np.add.reduceat(counts[rows], starts, dtype=np.uint64), firsts[rows[starts]]


def _token_bounds(columns: Sequence[tuple[NDArray[Any], ...]]) -> list[int]:
    """Bounds of ranges of tokens, each with about ``_ENTRIES`` entries of all pieces at most."""
    total = sum(len(column[0]) for column in columns)
    if total <= _ENTRIES:
        return [0, 1 << 32]
    step = max(1, total // (1 << 20))  # a sample of about a million entries
    sample = np.sort(np.concatenate([column[0][::step] for column in columns]))
    inner = sample[:: max(1, _ENTRIES // (2 * step))][1:]
    return [0, *np.unique(inner).tolist(), 1 << 32]


def _rank(keys: NDArray[np.uint64], ranks: NDArray[np.uint32]) -> None:
    """Writes the rank of every key; keys are distinct."""
    size, done = len(keys), 0
    step = max(1, size // (1 << 20))
    sample = np.sort(keys[::step])
    bounds = [0, *sample[:: max(1, _ENTRIES // (2 * step))][1:].tolist(), (1 << 64) - 1]
    for low, high in pairwise(bounds):
        found = []
        for part in _slices(size):
            key = keys[part]
            found.append(np.flatnonzero((key >= np.uint64(low)) & (key < np.uint64(high))) + part.start)
        at = np.concatenate(found)
        ranks[at[np.argsort(keys[at])]] = np.arange(done, done + len(at), dtype=np.uint32)
        done += len(at)


def _slices(size: int) -> Iterator[slice]:
    for start in range(0, size, _ENTRIES):
        yield slice(start, min(start + _ENTRIES, size))


def _make(file: Path, dtype: type[np.generic], size: int) -> np.memmap[Any, np.dtype[Any]]:
    """A new file of ``size`` zeros to write to, memory-mapped."""
    with file.open("wb") as stream:
        # Written, not left as holes: when the disk is full, a write to a mapped hole kills the process (SIGBUS).
        for part in _slices(size):
            stream.write(bytes((part.stop - part.start) * np.dtype(dtype).itemsize))
    return np.memmap(file, dtype=dtype, mode="r+", shape=size)


def _open(file: Path, dtype: type[np.generic]) -> NDArray[Any]:
    return np.memmap(file, dtype=dtype, mode="r")
