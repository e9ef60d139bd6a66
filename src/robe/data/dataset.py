"""Opening a prepared data set, and reading rows of a split."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from robe.checks import nearest
from robe.data.columns import Bags, Batch, Columns, Field
from robe.data.format import DataError, Manifest, ShardInfo, SplitInfo, file_digest, read_manifest


class PreparedDataset:
    """A prepared data set on disk; open it with :meth:`open`.

    Attributes:
        path: its folder.
        manifest: all that is known of it (docs/formats.md).
        fields: the F categorical fields, in the order of ``Batch.ids``.
        dense_names: names of the numeric features, in the order of ``Batch.dense``.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self.fields = tuple(Field(f.name, f.num_embeddings, f.multi) for f in manifest.fields)
        self.dense_names = manifest.dense

    @staticmethod
    def open(path: str | Path, verify: bool = False) -> PreparedDataset:
        """Opens the data set in folder ``path``; no row is read.

        Args:
            path: folder made by ``robe prepare``.
            verify: also compare the SHA-256 of every shard, which reads all of it.

        Raises:
            FileNotFoundError: no such folder, no manifest, or a missing shard.
            DataError: a manifest of another version, or a shard of wrong size or content.
        """
        folder = Path(path)
        manifest = read_manifest(folder)
        for split in manifest.splits.values():
            for shard in split.shards:
                _check_shard(folder / shard.file, shard, verify)
        return PreparedDataset(folder, manifest)

    @property
    def num_dense(self) -> int:
        """Number of numeric features; 0 when there are none."""
        return len(self.dense_names)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, such as train, validation and test."""
        return tuple(self.manifest.splits)

    @property
    def digest(self) -> str:
        """Identity of the content, 64 hexadecimal digits."""
        return self.manifest.digest()

    def rows(self, split: str) -> int:
        """Number of rows of ``split``."""
        return self._info(split).rows

    def split(self, name: str) -> Split:
        """The rows of one split.

        Raises:
            DataError: no such split; the message lists those there are.
        """
        return Split(self, name, self._info(name).shards)

    def _info(self, split: str) -> SplitInfo:
        if split not in self.manifest.splits:
            raise DataError(f"split: {self.path} has no split {split!r}; {nearest(split, self.splits)}")
        return self.manifest.splits[split]

    def __repr__(self) -> str:
        rows = ", ".join(f"{name}={info.rows}" for name, info in self.manifest.splits.items())
        return f"PreparedDataset({str(self.path)!r}, fields={len(self.fields)}, dense={self.num_dense}, rows: {rows})"


class Split:
    """Rows of one split, memory-mapped.

    Tensors it returns are views of the map where the rows lie in one shard. The map is private:
    writing to such a tensor never reaches the disk, but is seen by later reads of this Split.
    """

    def __init__(self, dataset: PreparedDataset, name: str, shards: tuple[ShardInfo, ...]) -> None:
        self.name = name
        self.fields = dataset.fields
        self._dataset = dataset
        self._shards = shards
        self._starts = [0, *np.cumsum([shard.rows for shard in shards]).tolist()]
        self._open: dict[int, Columns] = {}

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self._starts[-1])

    def read(self, start: int, stop: int) -> Batch:
        """Rows ``start`` to ``stop`` (end excluded) in stored order.

        Raises:
            IndexError: not 0 <= start <= stop <= rows.
        """
        return self.columns(start, stop).batch(self.fields)

    def columns(self, start: int, stop: int) -> Columns:
        """The same rows, column by column."""
        if not 0 <= start <= stop <= self.rows:
            raise IndexError(f"rows {start} to {stop}: split {self.name!r} has rows 0 to {self.rows}")
        if start == stop:
            return self._empty
        parts = []
        shard = bisect_right(self._starts, start) - 1
        while start < stop:
            first, last = self._starts[shard], self._starts[shard + 1]
            end = min(stop, last)
            parts.append(self._shard(shard).slice(start - first, end - first))
            start, shard = end, shard + 1
        return Columns.concat(parts)

    def shards(self) -> Iterator[Columns]:
        """The rows, shard by shard, in stored order; nothing is kept open."""
        for number in range(len(self._shards)):
            yield self._map(number)

    @cached_property
    def _empty(self) -> Columns:
        singles = sum(not field.multi for field in self.fields)
        num_dense = self._dataset.num_dense
        bag = Bags(np.empty(0, dtype=np.int64), np.zeros(1, dtype=np.int64))
        return Columns(
            np.empty(0, dtype=np.float32),
            np.empty((0, num_dense), dtype=np.float32) if num_dense else None,
            np.empty((0, singles), dtype=np.int64) if singles else None,
            tuple(bag for field in self.fields if field.multi),
        )

    def _shard(self, number: int) -> Columns:
        if number not in self._open:
            self._open[number] = self._map(number)
        return self._open[number]

    def _map(self, number: int) -> Columns:
        info = self._shards[number]
        return _map_shard(self._dataset.path / info.file, info.rows, self.fields, self._dataset.num_dense)


def _check_shard(file: Path, shard: ShardInfo, verify: bool) -> None:
    if not file.is_file():
        raise FileNotFoundError(f"{file}: the manifest names this shard but it is not there; prepare the data again")
    size = file.stat().st_size
    if size != shard.bytes:
        raise DataError(f"{file}: expected {shard.bytes} bytes by the manifest, got {size}; prepare the data again")
    if verify and file_digest(file) != shard.sha256:
        raise DataError(f"{file}: its SHA-256 differs from the manifest's, it is damaged; prepare the data again")


def _map_shard(file: Path, rows: int, fields: tuple[Field, ...], num_dense: int) -> Columns:
    # A copy-on-write map: torch accepts no read-only memory without a warning, and this one it may write to.
    memory = np.memmap(file, dtype=np.uint8, mode="c").view(np.ndarray)

    def view(array: pa.Array, dtype: type[np.generic], size: int) -> NDArray[Any]:
        buffer = array.buffers()[1]
        if not size or buffer is None:
            return np.empty(0, dtype)
        start = buffer.address - memory.ctypes.data
        return memory[start : start + buffer.size].view(dtype)[:size]

    try:
        record = pa.ipc.open_file(pa.py_buffer(memory)).get_batch(0)
        label = view(record.column("label"), np.float32, rows)
        dense = ids = None
        if num_dense:
            dense = view(record.column("dense").values, np.float32, rows * num_dense).reshape(rows, num_dense)
        singles = sum(not field.multi for field in fields)
        if singles:
            ids = view(record.column("ids").values, np.int64, rows * singles).reshape(rows, singles)
        bags = []
        for field in fields:
            if field.multi:
                lists = record.column(f"bag.{field.name}")
                bags.append(Bags(view(lists.values, np.int64, len(lists.values)), view(lists, np.int32, rows + 1)))
    except (pa.ArrowInvalid, KeyError, RuntimeError, ValueError) as error:
        raise DataError(f"{file}: not a shard of this data set ({error}); prepare the data again") from error
    if len(record) != rows:
        raise DataError(f"{file}: expected {rows} rows by the manifest, got {len(record)}; prepare the data again")
    return Columns(label, dense, ids, tuple(bags))
