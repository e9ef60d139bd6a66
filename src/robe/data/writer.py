"""Writing the shards of a prepared data set."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from robe.data.columns import Field
from robe.data.format import MANIFEST, Manifest, ShardInfo, SplitInfo

SHARD_ROWS = 262144
_ALIGNMENT = 4096  # of addresses and sizes that direct input and output takes
_DIRECT = getattr(os, "O_DIRECT", 0)
_own = threading.local()


class SplitWriter:
    """Collects rows of one split and writes them as shards of ``shard_rows`` rows.

    Args:
        folder: of the data set.
        split: name of the split, and of its folder.
        fields: the data set's fields.
        num_dense: number of numeric features.
        shard_rows: rows per shard. Default 262,144.
    """

    def __init__(
        self, folder: Path, split: str, fields: Sequence[Field], num_dense: int, shard_rows: int = SHARD_ROWS
    ) -> None:
        self._folder = folder
        self._split = split
        self._singles = sum(not field.multi for field in fields)
        self._bags = [field.name for field in fields if field.multi]
        self._num_dense = num_dense
        self._shard_rows = shard_rows
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = 0
        self._shards: list[ShardInfo] = []
        self._clicks = 0.0

    def write(
        self,
        label: NDArray[np.float32],
        dense: NDArray[np.float32] | None,
        ids: NDArray[np.int64] | None,
        bags: Mapping[str, pa.ListArray] | None = None,
    ) -> None:
        """Adds rows: label [n], dense [n, num_dense], ids [n, single-valued fields], a list array per bag field."""
        if not len(label):
            return
        columns: dict[str, pa.Array] = {"label": pa.array(label, pa.float32())}
        if self._num_dense:
            columns["dense"] = rows_array(dense, self._num_dense, pa.float32())
        if self._singles:
            columns["ids"] = rows_array(ids, self._singles, pa.int64())
        for name in self._bags:
            columns[f"bag.{name}"] = (bags or {})[name]
        self._clicks += float(label.sum(dtype=np.float64))
        self._pending.append(pa.RecordBatch.from_pydict(columns))
        self._pending_rows += len(label)
        while self._pending_rows >= self._shard_rows:
            self._flush(self._shard_rows)

    def close(self, best_auc: float | None = None) -> SplitInfo:
        """Writes what is left, and returns the split's entry of the manifest."""
        if self._pending_rows:
            self._flush(self._pending_rows)
        rows = sum(shard.rows for shard in self._shards)
        rate = self._clicks / rows if rows and not np.isnan(self._clicks) else None
        return SplitInfo(rows=rows, label_rate=rate, shards=tuple(self._shards), best_auc=best_auc)

    def _flush(self, rows: int) -> None:
        table = pa.Table.from_batches(self._pending)
        (record,) = table.slice(0, rows).combine_chunks().to_batches()
        rest = table.slice(rows)
        self._pending, self._pending_rows = rest.to_batches(), len(rest)
        name = f"{self._split}/{len(self._shards):05d}.arrow"
        self._shards.append(write_shard(self._folder, name, record))
        sync(self._folder / name)


def write_shard(folder: Path, name: str, record: pa.RecordBatch) -> ShardInfo:
    """Writes ``record`` as the Arrow file ``folder / name``, under a temporary name until it is complete."""
    file = folder / name
    partial = file.with_name(f".{file.name}.partial")
    file.parent.mkdir(parents=True, exist_ok=True)
    size = _write_record(pa.MockOutputStream(), record)
    memory = _staging(-(-size // _ALIGNMENT) * _ALIGNMENT)
    _write_record(pa.FixedSizeBufferWriter(pa.py_buffer(memory)), record)
    try:
        _write_file(partial, memory, size)
        partial.rename(file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    digest = hashlib.sha256(memory[:size]).hexdigest()
    return ShardInfo(file=name, rows=record.num_rows, bytes=size, sha256=digest)


def _staging(size: int) -> memoryview:
    """Memory of this thread that begins at a page, used again for the next file: fresh memory costs page faults."""
    if getattr(_own, "memory", None) is None or len(_own.memory) < size:
        _own.memory = mmap.mmap(-1, size + size // 8)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            _own.memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(_own.memory)[:size]


def _write_record(sink: Any, record: pa.RecordBatch) -> int:
    with pa.ipc.new_file(sink, record.schema) as writer:
        writer.write_batch(record)
    return int(sink.tell())


def _write_file(file: Path, memory: memoryview, size: int) -> None:
    """Writes ``size`` bytes past the page cache, where the file system can: that takes no processor time."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    try:
        descriptor = os.open(file, flags | _DIRECT, 0o666)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        descriptor = os.open(file, flags, 0o666)
    try:
        written, direct = 0, True
        while written < len(memory):
            try:
                written += os.write(descriptor, memory[written:])
            except OSError as error:
                if error.errno != errno.EINVAL or not direct:
                    raise
            if direct and written < len(memory):  # a disk that fills up takes a part, perhaps no whole block
                _buffered(descriptor)
                direct = False
        os.ftruncate(descriptor, size)
    finally:
        os.close(descriptor)


def _buffered(descriptor: int) -> None:
    import fcntl

    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) & ~_DIRECT)


def sync(file: Path) -> None:
    """Waits until ``file`` is on the disk."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes ``manifest.json``, the last file of a data set."""
    with (folder / MANIFEST).open("w", encoding="utf-8") as stream:
        stream.write(manifest.model_dump_json(indent=1) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def rows_array(matrix: NDArray[np.generic] | None, width: int, dtype: pa.DataType) -> pa.Array:
    """A matrix [n, width] as a row-major FixedSizeList column, without a copy where it is contiguous."""
    if matrix is None or matrix.shape[1:] != (width,):
        raise ValueError(f"expected {width} columns, got {None if matrix is None else matrix.shape}")
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(matrix).reshape(-1), dtype), width)
