"""The order of one epoch: a shuffle that needs one window of rows in memory, addressable at any position."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robe.data.mixing import permutation, stream_key


@dataclass(frozen=True)
class Window:
    """Consecutive positions of the order.

    Args:
        start: first position.
        blocks: row ranges (start, stop) to read, one after another.
        order: int64 [n]; position ``start + i`` is row ``order[i]`` of those read.
    """

    start: int
    blocks: tuple[tuple[int, int], ...]
    order: NDArray[np.int64]


class ShuffledOrder:
    """A permutation of ``rows`` rows, a pure function of (seed, epoch).

    Blocks of ``block_rows`` contiguous rows are permuted over all rows; consecutive permuted blocks form windows of
    about ``window_rows``; rows are permuted inside their window.
    """

    def __init__(self, rows: int, *, seed: int, epoch: int, window_rows: int, block_rows: int) -> None:
        blocks = permutation(stream_key(seed, epoch), -(-rows // block_rows))
        per_window = max(1, window_rows // block_rows)
        starts = blocks * block_rows
        stops = np.minimum(starts + block_rows, rows)
        positions = np.concatenate([[0], np.cumsum(stops - starts)])
        self._key = (seed, epoch)
        self._blocks = list(zip(starts.tolist(), stops.tolist(), strict=True))
        self._per_window = per_window
        # The short last block may land in any window, so windows are found by their first position.
        self._window_starts = positions[:-1:per_window]

    def find(self, position: int) -> int:
        """Number of the window that holds ``position``."""
        return int(np.searchsorted(self._window_starts, position, side="right")) - 1

    def window(self, number: int) -> Window:
        """Window ``number``, from 0."""
        blocks = self._blocks[number * self._per_window : (number + 1) * self._per_window]
        n = sum(stop - start for start, stop in blocks)
        return Window(
            int(self._window_starts[number]), tuple(blocks), permutation(stream_key(*self._key, number + 1), n)
        )
