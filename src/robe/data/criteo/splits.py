"""Splits by name: which lines are for training, validation and testing.

Lines are counted over the files in order, malformed ones included.

- ``dlrm-kaggle``: seven pseudo-days of equal size, the first ones a line longer; of the last day the first half is for
  testing, the second for validation (DLRM's ``day`` splits of Criteo Kaggle).
- ``random-9-1-8-2``: scikit-learn's ``train_test_split(test_size=0.1, random_state=2020)``, and the last fifth of its
  shuffled training lines for validation (DeepCTR). Lines keep their order in the files.
- ``mlperf-tb``: the last file is day 23: its first half is for testing, its second for validation; the others for
  training.
- ``time``: the last lines for testing, those before them for validation, by fractions.
- ``none``: all for training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from robe.data.criteo.spec import CriteoSpec
from robe.data.format import DataError

NAMES: Final = ("train", "validation", "test")
_RANDOM_LINES: Final = 150_000_000  # whose permutation, 8 bytes a line, may be in memory


def counts_first(spec: CriteoSpec) -> bool:
    """Whether lines must be counted before they are read: others are assigned afterwards, a piece at a time."""
    return spec.split == "random-9-1-8-2" or spec.vocabulary_from == "train"


class Splitter:
    """Assigns lines to splits.

    Args:
        spec: with the name of the split.
        lines: per file, its number of lines.

    Raises:
        DataError: there are too many lines for a random split in memory.
    """

    def __init__(self, spec: CriteoSpec, lines: Sequence[int]) -> None:
        self._name = spec.split
        self._random: NDArray[np.uint8] | None = None
        total = sum(lines)
        self._starts = np.concatenate([[0], np.cumsum(lines)]).astype(int).tolist()
        self._order = ("train", "test", "validation")
        if self._name == "dlrm-kaggle":
            day = total // 7
            self._cuts = (total - day, total - day // 2)
        elif self._name == "mlperf-tb":
            self._starts = [-1] * (len(lines) - 1) + [0]
            self._cuts = (0, math.ceil(lines[-1] / 2))
        elif self._name == "time":
            self._order = ("train", "validation", "test")
            test, validation = round(total * spec.test), round(total * spec.validation)
            self._cuts = (total - test - validation, total - test)
        elif self._name == "random-9-1-8-2":
            if total > _RANDOM_LINES:
                raise DataError(
                    f"split: random-9-1-8-2 permutes all {total:,} lines in memory, and takes at most "
                    f"{_RANDOM_LINES:,}; use time or mlperf-tb"
                )
            self._random = _random(total)

    def codes(self, file: int, first: int, lines: int) -> NDArray[np.uint8] | str:
        """Splits of ``lines`` lines of ``file`` from line ``first`` on.

        Returns:
            The name of the split when all lines are of one; else uint8 [lines], positions in :data:`NAMES`.
        """
        if self._name == "none" or self._starts[file] < 0:
            return "train"
        start = self._starts[file] + first
        if self._random is not None:
            return self._random[start : start + lines]
        part = np.searchsorted(self._cuts, np.array([start, start + lines - 1]), side="right")
        if part[0] == part[1]:
            return self._order[part[0]]
        where = np.searchsorted(self._cuts, np.arange(start, start + lines), side="right")
        return np.array([NAMES.index(name) for name in self._order], dtype=np.uint8)[where]


@lru_cache(maxsize=1)
def _random(lines: int) -> NDArray[np.uint8]:
    # As scikit-learn's ShuffleSplit. RandomState is a frozen generator: the rows are the same for ever.
    order = np.random.RandomState(2020).permutation(lines)
    test = math.ceil(0.1 * lines)
    train = int((lines - test) * (1 - 0.2))
    codes = np.zeros(lines, dtype=np.uint8)
    codes[order[test + train :]] = NAMES.index("validation")
    codes[order[:test]] = NAMES.index("test")
    return codes
