"""What to make of Criteo's raw files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from robe.checks import nearest, require_positive
from robe.data.format import DataError

KAGGLE: Final = "criteo-kaggle"
TERABYTE: Final = "criteo-tb"
_DEFAULT_SPLIT: Final = {KAGGLE: "dlrm-kaggle", TERABYTE: "mlperf-tb"}
_CHOICES: Final = {
    "recipe": (KAGGLE, TERABYTE),
    "ids": ("direct", "vocabulary"),
    "order": ("appearance", "frequency", "value"),
    "vocabulary_from": ("all", "train"),
    "numeric_transform": ("log1p", "minmax", "none"),
    "split": ("dlrm-kaggle", "random-9-1-8-2", "mlperf-tb", "time", "none"),
}


@dataclass(frozen=True)
class CriteoSpec:
    """How Criteo's files become a data set; the defaults are DLRM's recipe, with direct ids.

    Args:
        recipe: ``criteo-kaggle`` or ``criteo-tb``; decides the default split, and what ``robe data verify`` expects.
        ids: ``direct`` (default): the 32-bit token is the id; one pass over the data. ``vocabulary``: numbers.
        order: of the numbers of a vocabulary: ``appearance`` (default, as DLRM), ``frequency``, or ``value`` of the
            token (as scikit-learn's LabelEncoder, so as DeepCTR).
        min_count: tokens in fewer lines share id 0 (``vocabulary`` only). Default 1: no such id.
        vocabulary_from: lines whose tokens are counted, ``all`` (default) or ``train``; tokens without share id 0.
        max_ind_range: tokens are taken modulo it first, as DLRM's option of that name; 40,000,000 in MLPerf.
            Default None.
        numeric_transform: ``log1p`` (default): log(1 + max(x, 0)). ``minmax``: to [0, 1] over all lines, as DeepCTR.
            ``none``. A missing number counts as 0 in all.
        split: ``dlrm-kaggle``, ``random-9-1-8-2``, ``mlperf-tb``, ``time`` or ``none`` (all lines for training), see
            :mod:`robe.data.criteo.splits`. Default "": that of the recipe.
        validation: fraction of lines before the test lines, for ``time`` only. Default 0.1.
        test: fraction of lines at the end, for ``time`` only. Default 0.1.
        max_bad_rows: malformed lines that are put aside before it is an error: a fraction of the lines read when
            below 1, else a count. Default 0.01.

    Raises:
        DataError: a value is not one of those above.
    """

    recipe: Literal["criteo-kaggle", "criteo-tb"]
    ids: Literal["direct", "vocabulary"] = "direct"
    order: Literal["appearance", "frequency", "value"] = "appearance"
    min_count: int = 1
    vocabulary_from: Literal["all", "train"] = "all"
    max_ind_range: int | None = None
    numeric_transform: Literal["log1p", "minmax", "none"] = "log1p"
    split: str = ""
    validation: float = 0.1
    test: float = 0.1
    max_bad_rows: float = 0.01

    def __post_init__(self) -> None:
        if not self.split and self.recipe in _DEFAULT_SPLIT:
            object.__setattr__(self, "split", _DEFAULT_SPLIT[self.recipe])
        for name, known in _CHOICES.items():
            value = getattr(self, name)
            if value not in known:
                raise DataError(f"{name}: unknown {value!r}; {nearest(str(value), known)}")
        require_positive("min_count", self.min_count)
        if self.max_ind_range is not None:
            require_positive("max_ind_range", self.max_ind_range)
        if self.ids == "direct" and (self.order, self.min_count, self.vocabulary_from) != ("appearance", 1, "all"):
            raise DataError("order, min_count and vocabulary_from: only for ids='vocabulary' (--ids vocabulary)")
        if not (0 <= self.validation < 1 and 0 <= self.test < 1 and self.validation + self.test < 1):
            raise DataError(
                f"validation and test: expected fractions that leave lines to train on, got {self.validation} "
                f"and {self.test}"
            )
        if self.split != "time" and (self.validation, self.test) != (0.1, 0.1):
            raise DataError(f"validation and test: only for split 'time' (--split time), got split {self.split!r}")
        if not self.max_bad_rows >= 0:  # nor NaN
            raise DataError(f"max_bad_rows: expected a fraction or a count, got {self.max_bad_rows}")

    @property
    def has_unknown(self) -> bool:
        """True when id 0 of a vocabulary is for tokens that are not in it."""
        return self.min_count > 1 or self.vocabulary_from == "train"

    @property
    def two_passes(self) -> bool:
        """True when something must be known of all lines before the first can be written."""
        return self.ids == "vocabulary" or self.numeric_transform == "minmax"
