"""Batches of one epoch: seeded, sharded by rank, resumable in the middle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robe.checks import require_positive
from robe.data.columns import Batch, Columns
from robe.data.dataset import PreparedDataset, Split
from robe.data.format import DataError
from robe.data.order import ShuffledOrder


class Loader:
    """Iterates over the batches of one epoch of a split, then advances :attr:`epoch`.

    The order is a pure function of (seed, epoch). Global batch k covers positions ``k B W`` to ``(k + 1) B W`` of it,
    with B ``batch_size`` and W ``world_size``, and rank r has the r-th part. The last, smaller group is dealt evenly,
    so every rank yields the same number of batches, every row comes exactly once, and a last batch may be empty on
    some ranks when fewer than W rows are left.

    An epoch that is left early (``break``) starts again at its first batch; one restored by
    :meth:`load_state_dict` goes on where it was.

    Args:
        dataset: an open data set.
        split: name of one of its splits.
        batch_size: samples per batch and rank.
        shuffle: True (default) for a new order every epoch, False for the stored order (batches are then views).
        seed: of the shuffle. Default 0.
        rank: of this process, 0 to ``world_size - 1``. Default 0.
        world_size: number of processes that share the epoch. Default 1.
        drop_last: leave out the last group of fewer than B W rows. Default False.
        window_rows: rows that are shuffled together in memory; a smaller split is shuffled as a whole. Default 2^20.
        block_rows: contiguous rows that are read together. Default 4,096.

    Raises:
        DataError: no such split.
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        split: str,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        window_rows: int = 1 << 20,
        block_rows: int = 4096,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("world_size", world_size), ("block_rows", block_rows)):
            require_positive(name, value)
        if not 0 <= rank < world_size:
            raise ValueError(f"rank: expected 0 to world_size - 1 = {world_size - 1}, got {rank}")
        if window_rows < block_rows:
            raise ValueError(f"window_rows: expected at least block_rows = {block_rows}, got {window_rows}")
        self.epoch = 0
        self._batch = 0
        self._resume = False
        self._rank = rank
        self._split = dataset.split(split)
        # All that fixes the sequence of batches: a state is only good for a loader that has the same.
        self._identity: dict[str, Any] = {
            "dataset": dataset.digest,
            "split": split,
            "batch_size": batch_size,
            "world_size": world_size,
            "shuffle": shuffle,
            "seed": seed,
            "drop_last": drop_last,
            "window_rows": window_rows,
            "block_rows": block_rows,
        }

    def __len__(self) -> int:
        """Batches of an epoch, the same on every rank."""
        group = self._group
        return self._split.rows // group if self._identity["drop_last"] else -(-self._split.rows // group)

    def __iter__(self) -> Iterator[Batch]:
        if not self._resume:
            self._batch = 0
        self._resume = False
        read = _Shuffled(self._split, self._order()) if self._identity["shuffle"] else self._split.columns
        while self._batch < len(self):
            columns = read(*self._positions(self._batch))
            self._batch += 1
            yield columns.batch(self._split.fields)
        self.epoch += 1
        self._batch = 0

    def state_dict(self) -> dict[str, Any]:
        """Where the epoch stands, as JSON-able values: the batches already yielded, and what fixes their sequence."""
        return {"epoch": self.epoch, "batch": self._batch, **self._identity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where ``state`` (from :meth:`state_dict` of any rank) stands.

        Raises:
            DataError: the state is of another data set, split, batch size, world size, seed or shuffle.
        """
        differ = {key: (state.get(key), own) for key, own in self._identity.items() if state.get(key) != own}
        if differ:
            facts = "; ".join(f"{key}: state {theirs!r}, loader {own!r}" for key, (theirs, own) in differ.items())
            raise DataError(f"state: it belongs to another sequence of batches ({facts}); make the loader as it was")
        epoch, batch = state.get("epoch"), state.get("batch")
        if not isinstance(epoch, int) or not isinstance(batch, int) or epoch < 0 or not 0 <= batch <= len(self):
            raise DataError(f"state: expected epoch >= 0 and batch 0 to {len(self)}, got {epoch!r} and {batch!r}")
        self.epoch, self._batch, self._resume = epoch, batch, True

    @property
    def _group(self) -> int:
        return int(self._identity["batch_size"] * self._identity["world_size"])

    def _order(self) -> ShuffledOrder:
        own = self._identity
        return ShuffledOrder(
            self._split.rows,
            seed=own["seed"],
            epoch=self.epoch,
            window_rows=own["window_rows"],
            block_rows=own["block_rows"],
        )

    def _positions(self, batch: int) -> tuple[int, int]:
        start = batch * self._group
        size = min(self._group, self._split.rows - start)
        world = self._identity["world_size"]
        return start + size * self._rank // world, start + size * (self._rank + 1) // world


class _Shuffled:
    """Reads ranges of positions of a shuffled order; keeps the last window in memory."""

    def __init__(self, split: Split, order: ShuffledOrder) -> None:
        self._split = split
        self._order = order
        self._number = -1
        self._start = 0
        self._rows: Columns
        self._memory: Columns | None = None
        self._permutation: NDArray[np.int64]

    def __call__(self, start: int, stop: int) -> Columns:
        parts = []
        while start < stop:
            self._load(self._order.find(start))
            first = start - self._start
            index = self._permutation[first : first + stop - start]
            parts.append(self._rows.take(index))
            start += len(index)
        return Columns.concat(parts) if parts else self._split.columns(0, 0)

    def _load(self, number: int) -> None:
        if number == self._number:
            return
        window = self._order.window(number)
        parts = [self._split.columns(*block) for block in window.blocks]
        # The first window is the largest, or nearly: its memory serves the others, as fresh memory costs more than
        # copying into it. What batches were given is a copy.
        self._rows = Columns.concat(parts, self._memory)
        self._memory = self._memory or self._rows
        self._permutation = window.order
        self._number, self._start = number, window.start
