"""Ids of several fields with any number of values each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robe.checks import require_dtype, require_ndim, require_positive, require_same_device


@dataclass(frozen=True, eq=False)
class Jagged:
    """A batch of bags: for every field and sample, a list of ids, possibly empty.

    Bags lie field by field, as in TorchRec's KeyedJaggedTensor: the bag of field ``f`` and sample ``b``
    is ``values[offsets[f * B + b] : offsets[f * B + b + 1]]``.

    Args:
        values: ids, int64 [N].
        offsets: bag bounds, int64 [F * B + 1]; first 0, last N, never falling.
        num_fields: F.
        weights: optional weight per id, floating [N].

    Raises:
        TypeError: a tensor has the wrong dtype.
        ValueError: a tensor has the wrong shape, or the tensors are on different devices.
    """

    values: Tensor
    offsets: Tensor
    num_fields: int
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        require_positive("num_fields", self.num_fields)
        require_dtype("values", self.values, torch.int64)
        require_dtype("offsets", self.offsets, torch.int64)
        require_ndim("values", self.values, 1)
        require_ndim("offsets", self.offsets, 1)
        require_same_device("values", self.values, "offsets", self.offsets)
        if (self.offsets.numel() - 1) % self.num_fields != 0:
            raise ValueError(
                f"offsets: expected num_fields * batch + 1 elements with num_fields={self.num_fields}, "
                f"got {self.offsets.numel()}"
            )
        if self.weights is not None and self.weights.shape != self.values.shape:
            raise ValueError(
                f"weights: expected the shape of values {tuple(self.values.shape)}, got {tuple(self.weights.shape)}"
            )

    @property
    def batch_size(self) -> int:
        """Samples B."""
        return (self.offsets.numel() - 1) // self.num_fields

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Jagged:
        """The same bags on ``device``."""
        weights = None if self.weights is None else self.weights.to(device, non_blocking=non_blocking)
        return Jagged(
            self.values.to(device, non_blocking=non_blocking),
            self.offsets.to(device, non_blocking=non_blocking),
            self.num_fields,
            weights,
        )

    def field(self, f: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """The bags of field ``f`` alone.

        Returns:
            values int64 [N_f], offsets int64 [B + 1] starting at 0, and weights [N_f] or None.
        """
        b = self.batch_size
        offsets = self.offsets[f * b : (f + 1) * b + 1]
        lo, hi = int(offsets[0]), int(offsets[-1])
        weights = None if self.weights is None else self.weights[lo:hi]
        return self.values[lo:hi], offsets - offsets[0], weights

    @staticmethod
    def from_lists(samples: Sequence[Sequence[Sequence[int]]]) -> Jagged:
        """Bags from nested lists ``samples[b][f] = [id, ...]``; at least one sample."""
        if not samples:
            raise ValueError("samples: expected at least one sample, to know the number of fields")
        num_fields = len(samples[0])
        for b, sample in enumerate(samples):
            if len(sample) != num_fields:
                raise ValueError(f"samples[{b}]: expected {num_fields} fields as in samples[0], got {len(sample)}")
        bags = [torch.tensor(list(sample[f]), dtype=torch.int64) for f in range(num_fields) for sample in samples]
        lengths = torch.tensor([0] + [bag.numel() for bag in bags], dtype=torch.int64)
        return Jagged(torch.cat(bags), lengths.cumsum(0), num_fields)
