"""From raw rows to clean ones: label, numbers and tokens, with malformed rows put aside."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import polars as pl

from robe.data.format import DataError
from robe.data.mixing import random_words, stream_key, uniform
from robe.data.quarantine import Quarantine, plain_row
from robe.data.source import Chunk, Source
from robe.data.spec import TableSpec, expression

JOIN, ESCAPE = "\x1f", "\x1b"  # between the values of a cross; before an escaped one of the two
_FLOAT32_MAX = float(np.finfo(np.float32).max)


class Cleaner:
    """Turns chunks of raw columns into frames of ``label``, ``split``, ``dense.<name>`` and ``token.<field>``.

    Args:
        spec: what the columns become.
        label: False for rows to predict: no row is malformed for its label, which is NaN where it is unknown.
    """

    def __init__(self, spec: TableSpec, label: bool = True) -> None:
        self.spec = spec
        self.missing: dict[str, int] = dict.fromkeys(spec.numeric, 0)
        self._label = label
        self._label_expression = expression("label", spec.label)
        self._row = 0  # of all sources together: decides the random split

    def frames(
        self, source: Source, split: str | None, quarantine: Quarantine, advance: Callable[[float], None]
    ) -> Iterator[pl.DataFrame]:
        """Clean rows of ``source``, all of ``split`` if that is given."""
        needed = self.spec.needed(label=False)
        labels = [name for name in self.spec.needed() if name not in needed]
        if self._label or all(name in source.columns for name in labels):
            needed = (*needed, *labels)
        source.require(needed)
        types: dict[str, pl.DataType] = {}
        for chunk in source.chunks(needed, quarantine, advance):
            if source.text and not types:
                roots = self._label_expression.meta.root_names()
                types = {name: _number_type(chunk.frame[name]) for name in roots if name in chunk.frame.columns}
            yield self._clean(chunk, source, split, types, quarantine)
            quarantine.check()

    def _clean(
        self, chunk: Chunk, source: Source, split: str | None, types: dict[str, pl.DataType], quarantine: Quarantine
    ) -> pl.DataFrame:
        spec, raw = self.spec, chunk.frame
        reasons: list[pl.Series] = []
        for name, value in spec.derived:
            if all(root in raw.columns for root in value.meta.root_names()):
                raw = raw.with_columns(_evaluate(f"derive {name}", raw, value).alias(name))
        out: dict[str, pl.Series] = {"label": self._labels(raw, types, reasons)}
        for name in spec.numeric:
            out[f"dense.{name}"] = self._numbers(raw[name], reasons)
        tokens = {
            name: _raw_ids(raw[name], reasons) if spec.ids == "raw" else _tokens(raw[name]) for name in spec.categorical
        }
        for name, separator in spec.bags:
            tokens[name] = _bags(raw[name], separator, spec.ids == "raw", reasons)
        for cross, parts in zip(spec.crosses, spec.crossed, strict=True):
            tokens[cross] = _cross([_tokens(raw[part]) for part in parts])
        out |= {f"token.{name}": series for name, series in tokens.items()}
        out["split"] = self._splits(raw, split)
        frame = pl.DataFrame([series.alias(name) for name, series in out.items()])
        reason = pl.select(pl.coalesce([pl.lit(None, pl.String), *reasons])).to_series() if reasons else None
        if reason is not None and len(reason) == len(frame) and reason.null_count() < len(frame):
            bad = reason.is_not_null()
            rows = chunk.frame.filter(bad)
            for row, line, why in zip(
                rows.iter_rows(), chunk.lines[bad.to_numpy()].tolist(), reason.drop_nulls(), strict=True
            ):
                quarantine.add(source.path.name, line, why, plain_row(row))
            frame = frame.filter(~bad)
        for name in spec.numeric:
            column = frame[f"dense.{name}"]
            self.missing[name] += column.null_count()
            column = column.fill_null(0.0)
            if spec.numeric_transform == "log1p":
                column = column.clip(lower_bound=0.0).log1p()
            frame = frame.with_columns(column.cast(pl.Float32))
        return frame

    def _labels(self, raw: pl.DataFrame, types: dict[str, pl.DataType], reasons: list[pl.Series]) -> pl.Series:
        roots = self._label_expression.meta.root_names()
        if not self._label and not all(root in raw.columns for root in roots):
            return pl.repeat(float("nan"), len(raw), dtype=pl.Float32, eager=True)
        typed = raw
        for name in roots:
            if types.get(name, pl.String) != pl.String:
                typed = typed.with_columns(_parse(raw[name], types[name]))
                if self._label:
                    failed = typed[name].is_null() & (raw[name].str.strip_chars() != "")
                    reasons.append(_reason(failed, f"column {name!r}: expected a number, got ", raw[name]))
        given = _evaluate("label", typed, self._label_expression)
        try:
            value = given.cast(pl.Float64)
        except pl.exceptions.PolarsError as error:
            raise DataError(f"label: {self.spec.label!r} gives {given.dtype}, expected 0 and 1") from error
        valid = value.is_in([0.0, 1.0])
        if not self._label:
            return pl.select(pl.when(valid).then(value).otherwise(float("nan")).cast(pl.Float32)).to_series()
        reasons.append(_reason(value.is_null(), "label: no value", None))
        reasons.append(_reason(~valid, "label: expected 0 or 1, got ", given))
        return value.cast(pl.Float32)

    def _numbers(self, column: pl.Series, reasons: list[pl.Series]) -> pl.Series:
        name = column.name
        if column.dtype == pl.String:
            number = _parse(column, pl.Float64())
            failed = number.is_null() & column.is_not_null() & (column.str.strip_chars() != "")
            reasons.append(_reason(failed, f"column {name!r}: expected a number, got ", column))
        elif column.dtype.is_numeric() or column.dtype == pl.Boolean:
            number = column.cast(pl.Float64)
        else:
            raise DataError(f"numeric: column {name!r} has type {column.dtype}; derive a number from it")
        finite = number.is_finite() & (number.abs() <= _FLOAT32_MAX)
        reasons.append(_reason(~finite, f"column {name!r}: expected a finite number, got ", column))
        return number

    def _splits(self, raw: pl.DataFrame, split: str | None) -> pl.Series:
        spec, n = self.spec, len(raw)
        rows = np.arange(self._row, self._row + n)
        self._row += n
        if split:
            return pl.repeat(split, n, dtype=pl.String, eager=True)
        u = uniform(random_words(stream_key(spec.seed, 1), rows))
        drawn = np.where(u < spec.test, "test", np.where(u < spec.test + spec.validation, "validation", "train"))
        series = pl.Series(drawn, dtype=pl.String)
        if spec.split_column:
            given = (
                raw[spec.split_column]
                .cast(pl.String)
                .replace_strict(spec.split_by_value, default=None, return_dtype=pl.String)
            )
            series = pl.select(pl.coalesce(given, series)).to_series()
        return series


def _evaluate(what: str, frame: pl.DataFrame, value: pl.Expr) -> pl.Series:
    try:
        result = frame.select(value).to_series()
    except pl.exceptions.PolarsError as error:
        used = {name: str(frame.schema[name]) for name in value.meta.root_names() if name in frame.columns}
        raise DataError(
            f"{what}: cannot be computed: {str(error).splitlines()[0]}; types of its columns: {used}; "
            "TRY_CAST(x AS BIGINT) makes a number of text, and null of what is none"
        ) from error
    if len(result) != len(frame):
        raise DataError(f"{what}: expected one value per row, got {len(result)} for {len(frame)} rows")
    return result


def _number_type(column: pl.Series) -> pl.DataType:
    """Integer or float if all values of the first chunk but at most 1% are such numbers, else text."""
    given = column.filter(column.str.strip_chars() != "")
    for dtype in (pl.Int64(), pl.Float64()):
        if len(given) and _parse(given, dtype).null_count() <= 0.01 * len(given):
            return dtype
    return pl.String()


def _parse(column: pl.Series, dtype: pl.DataType) -> pl.Series:
    return column.str.strip_chars().cast(dtype, strict=False)


def _reason(mask: pl.Series, text: str, got: pl.Series | None) -> pl.Series:
    mask = mask.fill_null(False)
    if not mask.any():
        return pl.Series([None], dtype=pl.String)
    value = pl.lit(text) if got is None else pl.lit(text) + got.cast(pl.String).str.slice(0, 60).fill_null("nothing")
    return pl.select(pl.when(mask).then(value).otherwise(None)).to_series()


def _tokens(column: pl.Series) -> pl.Series:
    if column.dtype.is_nested() or column.dtype == pl.Object:
        raise DataError(f"categorical: column {column.name!r} has type {column.dtype}; a list column goes to multi")
    return column.cast(pl.String).fill_null("")


def _raw_ids(column: pl.Series, reasons: list[pl.Series]) -> pl.Series:
    if column.dtype != pl.String and not column.dtype.is_integer():
        raise DataError(f"ids='raw': column {column.name!r} has type {column.dtype}, expected integers")
    ids = _parse(column, pl.Int64()) if column.dtype == pl.String else column.cast(pl.Int64, strict=False)
    reasons.append(_reason(ids.is_null(), f"column {column.name!r}: expected a 64-bit integer id, got ", column))
    return ids


def _bags(column: pl.Series, separator: str, raw: bool, reasons: list[pl.Series]) -> pl.Series:
    name = column.name
    if isinstance(column.dtype, pl.List):
        lists = column.fill_null([])
    elif separator:
        lists = _tokens(column).str.split(separator).list.eval(pl.element().filter(pl.element() != ""))
    else:
        raise DataError(f"multi: column {name!r} has type {column.dtype}; give its separator, such as '{name}:|'")
    if not raw:
        return lists.cast(pl.List(pl.String)).list.drop_nulls()
    ids = lists.list.eval(pl.element().cast(pl.Int64, strict=False))
    failed = ids.list.eval(pl.element().is_null()).list.any()
    reasons.append(
        _reason(
            failed,
            f"column {name!r}: expected 64-bit integer ids, got ",
            lists.cast(pl.List(pl.String)).list.join(" ", ignore_nulls=False),
        )
    )
    return ids


def _cross(parts: list[pl.Series]) -> pl.Series:
    escaped = [
        part.str.replace_all(ESCAPE, ESCAPE + "e", literal=True).str.replace_all(JOIN, ESCAPE + "s", literal=True)
        for part in parts
    ]
    return pl.select(pl.concat_str(escaped, separator=JOIN)).to_series()
