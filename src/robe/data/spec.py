"""What to make of the columns of a raw table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from robe.checks import require_positive
from robe.data.format import DataError


@dataclass(frozen=True)
class TableSpec:
    """Which columns of a raw table become what. Expressions are polars SQL, one row at a time.

    In a CSV every column is text, except in ``label``, where columns that look like numbers are numbers;
    in ``derive`` use ``TRY_CAST(year AS BIGINT)``. Parquet columns keep their type.

    Args:
        label: expression that gives 0 or 1 (or a boolean): ``rating >= 4``.
        categorical: columns that become one id each, of any type; a missing value is the token "".
        numeric: columns that become dense features; a missing value is 0, one that is not finite a malformed row.
        multi: multi-valued columns with their separator, ``genres:|`` (what follows the last colon; ``genres::`` for a
            colon); or only the name of a Parquet list column (``a:b:`` when it has a colon).
        crosses: tuples of columns as one token, ``user*genres``.
        derive: new columns, ``zip3 = SUBSTR(zip, 1, 3)``; later ones may use earlier ones.
        split_column: column whose value decides the split, by ``split_values``. Default None.
        split_values: ``test=4`` or ``validation=3``, compared as text; other rows are for training.
        validation: fraction of the remaining rows to draw for validation. Default 0.
        test: fraction of the remaining rows to draw for testing. Default 0.
        seed: of that draw. Default 0.
        ids: ``direct`` (default): a 64-bit hash of the token, no vocabulary. ``vocabulary``: numbers by first
            appearance, 0 for unknown tokens. ``raw``: integer columns that are ids already.
        min_count: tokens seen less often are unknown (``vocabulary`` only). Default 1.
        vocabulary_from: rows whose tokens make the vocabulary, ``all`` (default) or ``train``.
        numeric_transform: ``none`` (default) or ``log1p``: log(1 + max(x, 0)).
        max_bad_rows: malformed rows that are put aside before it is an error: a fraction of the rows read when
            below 1, else a count. Default 0.01.
        separator: of CSV columns. Default None: comma for .csv, tab for .tsv.
        quote: character around CSV values that contain the separator; "" for none. Default ``"``.
        columns: names of the columns of a CSV without a header line. Default ().

    Raises:
        ValueError: a value is not one of those above.
    """

    label: str
    categorical: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()
    multi: tuple[str, ...] = ()
    crosses: tuple[str, ...] = ()
    derive: tuple[str, ...] = ()
    split_column: str | None = None
    split_values: tuple[str, ...] = ()
    validation: float = 0.0
    test: float = 0.0
    seed: int = 0
    ids: Literal["direct", "vocabulary", "raw"] = "direct"
    min_count: int = 1
    vocabulary_from: Literal["all", "train"] = "all"
    numeric_transform: Literal["none", "log1p"] = "none"
    max_bad_rows: float = 0.01
    separator: str | None = None
    quote: str = '"'
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_positive("min_count", self.min_count)
        for name, known in (
            ("ids", ("direct", "vocabulary", "raw")),
            ("vocabulary_from", ("all", "train")),
            ("numeric_transform", ("none", "log1p")),
        ):
            if getattr(self, name) not in known:
                raise DataError(f"{name}: expected one of {list(known)}, got {getattr(self, name)!r}")
        if not (0 <= self.validation < 1 and 0 <= self.test < 1 and self.validation + self.test < 1):
            raise DataError(
                f"validation and test: expected fractions that leave rows to train on, got {self.validation} "
                f"and {self.test}"
            )
        if self.max_bad_rows < 0:
            raise DataError(f"max_bad_rows: expected a fraction or a count, got {self.max_bad_rows}")
        for name in ("separator", "quote"):
            value = getattr(self, name)
            if value and len(value.encode()) != 1:
                raise DataError(f"{name}: expected one ASCII character, got {value!r}")
        if bool(self.split_column) != bool(self.split_values):
            raise DataError("split_column and split_values: expected both or neither, such as fold and test=4")
        if self.ids == "raw" and self.crosses:
            raise DataError("crosses: raw ids cannot be crossed; use ids='direct'")
        if self.ids != "vocabulary" and (self.min_count > 1 or self.vocabulary_from != "all"):
            raise DataError(f"min_count and vocabulary_from: only for ids='vocabulary', got ids={self.ids!r}")
        self.derived, self.crossed, self.split_by_value  # noqa: B018 - parsing them checks them
        if not self.field_names:
            raise DataError("categorical, multi, crosses: expected at least one column, got none")
        for what, names in (("field", self.field_names), ("numeric", self.numeric), ("column", self.columns)):
            twice = [name for name, count in Counter(names).items() if count > 1]
            if twice:
                raise DataError(f"{what} names: {twice} appear twice; derive a second name for the same column")
        expression("label", self.label)

    @property
    def field_names(self) -> tuple[str, ...]:
        """Names of the fields in order: categorical, multi-valued, crossed."""
        return self.categorical + tuple(name for name, _ in self.bags) + self.crosses

    @property
    def bags(self) -> tuple[tuple[str, str], ...]:
        """Name and separator of every multi-valued column; the separator of a list column is empty."""
        return tuple(_bag(text) for text in self.multi)

    @property
    def crossed(self) -> tuple[tuple[str, ...], ...]:
        """The columns of every cross."""
        crosses = tuple(tuple(part.strip() for part in text.split("*")) for text in self.crosses)
        for text, parts in zip(self.crosses, crosses, strict=True):
            if len(parts) < 2 or not all(parts):
                raise DataError(f"crosses: expected columns joined by *, such as user*genres, got {text!r}")
        return crosses

    @property
    def derived(self) -> tuple[tuple[str, pl.Expr], ...]:
        """Name and expression of every derived column."""
        found = []
        for text in self.derive:
            name, equals, value = (part.strip() for part in text.partition("="))
            if not (name and equals and value):
                raise DataError(f"derive: expected name = expression, such as zip3 = SUBSTR(zip, 1, 3), got {text!r}")
            found.append((name, expression(f"derive {name}", value)))
        return tuple(found)

    @property
    def split_by_value(self) -> dict[str, str]:
        """Split of every value of ``split_column`` that is not for training."""
        found = {}
        for text in self.split_values:
            split, equals, value = text.partition("=")
            if split not in ("validation", "test", "train") or not equals:
                raise DataError(f"split_values: expected validation=VALUE or test=VALUE, got {text!r}")
            found[value] = split
        return found

    @property
    def leaking(self) -> tuple[str, ...]:
        """Columns that both the label and a feature are made of, directly or by ``derive``."""
        names = [*self.categorical, *self.numeric, *(name for name, _ in self.bags)]
        names += [part for parts in self.crossed for part in parts]
        label = self._origins(expression("label", self.label).meta.root_names())
        return tuple(sorted(label & self._origins(names)))

    def _origins(self, names: Sequence[str]) -> set[str]:
        origins = set(names)
        for name, value in reversed(self.derived):
            if name in origins:
                origins.update(value.meta.root_names())
        return origins

    def needed(self, label: bool = True) -> tuple[str, ...]:
        """Columns the source must have, in order of use; without those only the label needs if ``label`` is False."""
        names = [*self.categorical, *self.numeric, *(name for name, _ in self.bags)]
        names += [part for parts in self.crossed for part in parts]
        if label:
            names += expression("label", self.label).meta.root_names()
            names += [self.split_column] if self.split_column else []
        made: set[str] = set()
        for name, value in self.derived:
            if label or name in names or any(name in later.meta.root_names() for _, later in self.derived):
                names += [root for root in value.meta.root_names() if root not in made]
            made.add(name)
        return tuple(dict.fromkeys(name for name in names if name not in made))


def _bag(text: str) -> tuple[str, str]:
    if text.endswith("::"):
        return text[:-2], ":"
    name, colon, separator = text.rpartition(":")
    return (name, separator) if colon else (text, "")


def expression(what: str, text: str) -> pl.Expr:
    """The polars expression of SQL ``text``; ``what`` it is for begins the error."""
    try:
        return pl.sql_expr(text)
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"{what}: not a SQL expression: {text!r} ({str(error).splitlines()[0]}); a column name that is a word of "
            'SQL needs double quotes, such as "user"'
        ) from error
