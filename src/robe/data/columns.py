"""What a prepared data set hands out: fields, batches, and the columns both are cut from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robe.jagged import Jagged


@dataclass(frozen=True)
class Field:
    """One categorical input column.

    Args:
        name: name of the column; a cross is named by its parts, ``user*genres``.
        num_embeddings: rows of its table; None when ids are any int64 (direct or raw ids).
        multi: True when a sample holds any number of ids, possibly none.
    """

    name: str
    num_embeddings: int | None
    multi: bool = False


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples as a model takes them.

    Args:
        dense: numeric features, float32 [B, num_dense], or None when the data set has none.
        ids: int64 [B, F], or a Jagged of F fields when any field is multi-valued.
        label: float32 [B], 0 or 1; NaN where the label is unknown (rows to predict).
    """

    dense: Tensor | None
    ids: Tensor | Jagged
    label: Tensor

    @property
    def size(self) -> int:
        """Samples B."""
        return int(self.label.shape[0])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same samples on ``device``."""
        dense = None if self.dense is None else self.dense.to(device, non_blocking=non_blocking)
        ids = self.ids.to(device, non_blocking=non_blocking)
        return Batch(dense, ids, self.label.to(device, non_blocking=non_blocking))

    def tensors(self) -> list[Tensor]:
        """The tensors it consists of."""
        ids = [self.ids.values, self.ids.offsets] if isinstance(self.ids, Jagged) else [self.ids]
        return [*([] if self.dense is None else [self.dense]), *ids, self.label]

    def pin_memory(self) -> Batch:
        """The same samples in page-locked memory, from which a device copies while the host goes on."""
        dense = None if self.dense is None else self.dense.pin_memory()
        ids = self.ids
        if isinstance(ids, Jagged):
            weights = None if ids.weights is None else ids.weights.pin_memory()
            ids = Jagged(ids.values.pin_memory(), ids.offsets.pin_memory(), ids.num_fields, weights)
        else:
            ids = ids.pin_memory()
        return Batch(dense, ids, self.label.pin_memory())


@dataclass(frozen=True, eq=False)
class Bags:
    """Ids of one multi-valued field: sample b has ``values[offsets[b] : offsets[b + 1]]``.

    Args:
        values: int64 [N]; may begin before the first bag.
        offsets: int32 or int64 [B + 1], into ``values``.
    """

    values: NDArray[np.int64]
    offsets: NDArray[np.signedinteger]

    def take(self, index: NDArray[np.int64]) -> Bags:
        """The bags of samples ``index`` [n], in that order."""
        starts = self.offsets[:-1].take(index)
        lengths = self.offsets[1:].take(index) - starts
        offsets = _offsets(lengths)
        places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        return Bags(self.values.take(places), offsets)

    def compact(self) -> Bags:
        """The same bags with int64 offsets from 0 and no other values."""
        lo, hi = int(self.offsets[0]), int(self.offsets[-1])
        return Bags(self.values[lo:hi], self.offsets.astype(np.int64) - lo)

    @staticmethod
    def concat(parts: Sequence[Bags]) -> Bags:
        """The bags of ``parts``, one part after another."""
        values = [part.values[part.offsets[0] : part.offsets[-1]] for part in parts]
        return Bags(np.concatenate(values), _offsets(np.concatenate([np.diff(part.offsets) for part in parts])))


@dataclass(frozen=True, eq=False)
class Columns:
    """Rows of a split, column by column. Slices are views.

    Numpy, not torch: a gather of a few thousand rows is faster without torch's threads, which the model needs.

    Args:
        label: float32 [B].
        dense: float32 [B, num_dense] or None.
        ids: int64 [B, S] of the S single-valued fields, or None when S is 0.
        bags: one Bags per multi-valued field, in field order.
    """

    label: NDArray[np.float32]
    dense: NDArray[np.float32] | None
    ids: NDArray[np.int64] | None
    bags: tuple[Bags, ...] = ()

    def slice(self, start: int, stop: int) -> Columns:
        """Rows ``start`` to ``stop``, as views."""
        return Columns(
            self.label[start:stop],
            None if self.dense is None else self.dense[start:stop],
            None if self.ids is None else self.ids[start:stop],
            tuple(Bags(bag.values, bag.offsets[start : stop + 1]) for bag in self.bags),
        )

    def take(self, index: NDArray[np.int64]) -> Columns:
        """Rows ``index`` [n], in that order, copied."""
        return Columns(
            self.label.take(index),
            None if self.dense is None else self.dense.take(index, axis=0),
            None if self.ids is None else self.ids.take(index, axis=0),
            tuple(bag.take(index) for bag in self.bags),
        )

    @staticmethod
    def concat(parts: Sequence[Columns], memory: Columns | None = None) -> Columns:
        """Rows of ``parts``, one part after another; at least one part. Written into ``memory`` where it is enough."""
        if len(parts) == 1:
            return parts[0]
        return Columns(
            _concat([part.label for part in parts], None if memory is None else memory.label),
            _concat([part.dense for part in parts], None if memory is None else memory.dense),
            _concat([part.ids for part in parts], None if memory is None else memory.ids),
            tuple(Bags.concat(bags) for bags in zip(*(part.bags for part in parts), strict=True)),
        )

    def batch(self, fields: Sequence[Field]) -> Batch:
        """These rows as a Batch; a Jagged over all ``fields`` when one of them is multi-valued."""
        n = len(self.label)
        label = torch.from_numpy(self.label)
        dense = None if self.dense is None else torch.from_numpy(self.dense)
        if not self.bags:
            ids = np.empty((n, 0), dtype=np.int64) if self.ids is None else self.ids
            return Batch(dense, torch.from_numpy(ids), label)
        singles = iter(() if self.ids is None else self.ids.T)
        bags = iter(self.bags)
        ones = np.arange(n + 1)
        values, offsets, base = [], [np.zeros(1, dtype=np.int64)], 0
        for field in fields:
            bag = next(bags).compact() if field.multi else Bags(next(singles), ones)
            values.append(bag.values)
            offsets.append(bag.offsets[1:] + base)
            base += len(bag.values)
        jagged = Jagged(
            torch.from_numpy(np.concatenate(values)), torch.from_numpy(np.concatenate(offsets)), len(fields)
        )
        return Batch(dense, jagged, label)


def _offsets(lengths: NDArray[np.signedinteger]) -> NDArray[np.int64]:
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _concat(parts: Sequence[NDArray[Any] | None], memory: NDArray[Any] | None) -> Any:
    present = [part for part in parts if part is not None]
    if not present:
        return None
    rows = sum(len(part) for part in present)
    if memory is None or len(memory) < rows or not memory.flags.owndata:
        return np.concatenate(present)
    return np.concatenate(present, out=memory[:rows])
