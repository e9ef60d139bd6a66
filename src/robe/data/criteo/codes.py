"""The rows between two passes: tokens as codes, positions in the list of distinct tokens of their piece."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from robe.data.criteo.columns import NUM_DENSE, NUM_FIELDS
from robe.data.format import ShardInfo
from robe.data.writer import rows_array, write_shard

FOLDER = "between"


def write_codes(
    folder: Path,
    name: str,
    label: NDArray[np.float32],
    dense: NDArray[np.float32],
    tokens: NDArray[np.int64],
    counted: NDArray[np.bool_] | None = None,
) -> dict[str, ShardInfo]:
    """Writes rows [n] with codes, and the distinct tokens: token, lines, first row; field after field.

    ``counted`` [n] says which rows count as lines of a token; None for all.
    """
    n = len(label)
    codes = np.empty((n, NUM_FIELDS), dtype=np.uint32)
    found: list[NDArray[np.uint32]] = []
    counts: list[NDArray[np.uint32]] = []
    firsts: list[NDArray[np.uint32]] = []
    base = 0
    for f in range(NUM_FIELDS):
        # Token and row in one word: sorted, equal tokens lie together and their first row leads.
        words = (tokens[:, f].astype(np.uint64) << np.uint64(32)) | np.arange(n, dtype=np.uint64)
        words.sort()
        sorted_tokens, rows = (words >> np.uint64(32)).astype(np.uint32), words.astype(np.uint32)
        new = np.empty(n, dtype=bool)
        new[:1] = True
        np.not_equal(sorted_tokens[1:], sorted_tokens[:-1], out=new[1:])
        starts = np.flatnonzero(new)
        codes[rows, f] = np.cumsum(new, dtype=np.uint32) + np.uint32(base - 1 & 0xFFFFFFFF)
        found.append(sorted_tokens[starts])
        firsts.append(rows[starts])
        if counted is None:
            counts.append(np.diff(starts, append=n).astype(np.uint32))
        else:
            counts.append(np.add.reduceat(counted[rows], starts, dtype=np.uint32))
        base += len(starts)
    record = pa.RecordBatch.from_pydict(
        {
            "label": pa.array(label, pa.float32()),
            "dense": rows_array(dense, NUM_DENSE, pa.float32()),
            "codes": rows_array(codes, NUM_FIELDS, pa.uint32()),
        }
    )
    sizes = ",".join(str(len(part)) for part in found)
    distinct = pa.RecordBatch.from_pydict(
        {
            "token": pa.array(np.concatenate(found)),
            "count": pa.array(np.concatenate(counts)),
            "first": pa.array(np.concatenate(firsts)),
        }
    ).replace_schema_metadata({"sizes": sizes})
    return {
        "all": write_shard(folder, f"{FOLDER}/{name}.arrow", record),
        "tokens": write_shard(folder, f"{FOLDER}/{name}.tokens.arrow", distinct),
    }


def read_rows(file: Path, tokens: str = "codes") -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[Any]]:
    """Label [n], dense [n, 13], and codes or ids [n, 26] of a shard, memory-mapped."""
    record = _map(file)
    dense = record.column("dense").values.to_numpy().reshape(-1, NUM_DENSE)
    codes = record.column(tokens).values.to_numpy().reshape(-1, NUM_FIELDS)
    return record.column("label").to_numpy(), dense, codes


class Distinct:
    """The distinct tokens of a piece, memory-mapped: per field, sorted by token."""

    def __init__(self, file: Path) -> None:
        record = _map(file)
        sizes = [int(size) for size in record.schema.metadata[b"sizes"].decode().split(",")]
        self.starts = [0, *np.cumsum(sizes).tolist()]
        self._columns = {name: record.column(name).to_numpy() for name in ("token", "count", "first")}

    def field(self, f: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32]]:
        """Token, count, first row; uint32 [number of tokens of field ``f``]."""
        part = slice(self.starts[f], self.starts[f + 1])
        return self._columns["token"][part], self._columns["count"][part], self._columns["first"][part]

    def ids(self, lookup: Callable[[int, NDArray[np.uint32]], NDArray[Any]]) -> NDArray[np.int64]:
        """The id of every code, by ``lookup`` of field and tokens."""
        return np.concatenate([lookup(f, self.field(f)[0]).astype(np.int64) for f in range(NUM_FIELDS)])


def _map(file: Path) -> pa.RecordBatch:
    # Not pa.memory_map, which keeps a file descriptor for each of thousands of pieces.
    return pa.ipc.open_file(pa.py_buffer(np.memmap(file, dtype=np.uint8, mode="r"))).get_batch(0)
