"""What is in a prepared data set: tokens and their frequencies, label rates, drift."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from robe.data.columns import Columns, Field
from robe.data.dataset import PreparedDataset
from robe.data.progress import bar

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DAYS: Final = 7  # periods of data that come in one file
_LINES: Final = ("-", "--", ":", "-.")  # of plots, each in matplotlib's ten colours


@dataclass(frozen=True)
class FieldStats:
    """Tokens of one field.

    Args:
        name: of the field.
        distinct: ids that occur.
        once: ids that occur once.
        values: ids in all, with repetitions; the rows, for a single-valued field.
        coverage: (k, share of the values that the k most frequent ids make up), k = 1, 10, 100, ..., distinct.
    """

    name: str
    distinct: int
    once: int
    values: int
    coverage: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class PeriodStats:
    """Rows that lie together in the raw files: a file, or a seventh when there is only one.

    Args:
        rows: number of rows.
        label_rate: share of clicks.
        unseen: per field, share of its values whose id no earlier period has; 1 in the first.
        dense_mean: mean per numeric feature.
    """

    rows: int
    label_rate: float
    unseen: tuple[float, ...]
    dense_mean: tuple[float, ...]


@dataclass(frozen=True)
class Stats:
    """All of it; ``dense_names`` are the numeric features that the periods have means of."""

    rows: dict[str, int]
    label_rate: dict[str, float | None]
    fields: tuple[FieldStats, ...]
    periods: tuple[PeriodStats, ...]
    dense_names: tuple[str, ...]


class _Counter:
    """Distinct ids of a field, sorted, with their counts."""

    def __init__(self) -> None:
        self.ids = np.empty(0, dtype=np.int64)
        self.counts = np.empty(0, dtype=np.int64)
        self._waiting: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []

    def add(self, ids: NDArray[np.int64]) -> None:
        self._waiting.append(np.unique(ids, return_counts=True))
        if sum(len(part) for part, _ in self._waiting) > max(1 << 20, len(self.ids)):
            self.merge()

    def merge(self) -> None:
        ids = np.concatenate([self.ids, *(part for part, _ in self._waiting)])
        counts = np.concatenate([self.counts, *(part for _, part in self._waiting)])
        self._waiting = []
        order = np.argsort(ids)
        ids = ids[order]
        starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]])) if len(ids) else order
        self.ids, self.counts = ids[starts], np.add.reduceat(counts[order], starts) if len(ids) else counts


def distinct_counts(dataset: PreparedDataset, *, progress: bool = False) -> dict[str, int]:
    """Distinct ids of every field over all splits, counted; memory holds those of one field."""
    found = {}
    with bar("tokens", len(dataset.fields), "fields", progress) as advance:
        for number, field in enumerate(dataset.fields):
            counter = _Counter()
            for _, columns in _ordered(dataset):
                counter.add(_ids(columns, dataset.fields, number))
            counter.merge()
            found[field.name] = len(counter.ids)
            advance(1)
    return found


def stats(path: str | Path, *, progress: bool = False) -> Stats:
    """Counts all of a data set; memory holds the distinct ids of one field.

    Args:
        path: folder made by ``robe prepare``.
        progress: show a progress bar on standard error. Default False.

    Raises:
        FileNotFoundError: no such folder, no manifest, or a missing shard.
        DataError: the data set cannot be read.
    """
    dataset = PreparedDataset.open(path)
    rows, clicks, sums = _period_sums(dataset)
    fields, unseen = [], []
    with bar("counting", len(dataset.fields), "fields", progress) as advance:
        for number, field in enumerate(dataset.fields):
            counter, shares = _count(dataset, number, len(rows))
            fields.append(_field(field, counter))
            unseen.append(shares)
            advance(1)
    periods = tuple(
        PeriodStats(
            rows=int(n),
            label_rate=float(clicks[p] / n),
            unseen=tuple(shares[p] for shares in unseen),
            dense_mean=tuple((sums[p] / n).tolist()),
        )
        for p, n in enumerate(rows)
        if n
    )
    splits = dataset.manifest.splits
    return Stats(
        rows={name: info.rows for name, info in splits.items()},
        label_rate={name: info.label_rate for name, info in splits.items()},
        fields=tuple(fields),
        periods=periods,
        dense_names=dataset.dense_names,
    )


def _ordered(dataset: PreparedDataset) -> Iterator[tuple[int, Columns]]:
    """The rows of all shards in the order of the raw files, as far as it is known, each with its period."""
    found = []
    for name, info in dataset.manifest.splits.items():
        for shard, columns in zip(info.shards, dataset.split(name).shards(), strict=True):
            found.append((shard.file, columns))
    if dataset.manifest.kind == "criteo":
        found.sort(key=lambda pair: pair[0])
    files = len(dataset.manifest.sources) if dataset.manifest.kind == "criteo" else 1
    total, seen = sum(len(columns.label) for _, columns in found), 0
    for file, columns in found:
        if files > 1:
            yield int(Path(file).name[:3]), columns
            continue
        n = len(columns.label)
        while n:  # a shard may reach into the next period
            period = seen * _DAYS // total
            size = min(n, -(-(period + 1) * total // _DAYS) - seen)
            start = len(columns.label) - n
            yield period, columns.slice(start, start + size)
            seen, n = seen + size, n - size


def _period_sums(
    dataset: PreparedDataset,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Rows [P], clicks [P] and sums of the numeric features [P, num_dense] of every period."""
    periods = max((period for period, _ in _ordered(dataset)), default=0) + 1
    rows, clicks = np.zeros(periods, dtype=np.int64), np.zeros(periods)
    sums = np.zeros((periods, dataset.num_dense))
    for period, columns in _ordered(dataset):
        rows[period] += len(columns.label)
        clicks[period] += columns.label.sum(dtype=np.float64)
        if columns.dense is not None:
            sums[period] += columns.dense.sum(axis=0, dtype=np.float64)
    return rows, clicks, sums


def _count(dataset: PreparedDataset, field: int, periods: int) -> tuple[_Counter, list[float]]:
    """The ids of a field, and per period the share of values whose id is new."""
    before, now, period = _Counter(), _Counter(), 0
    shares = [0.0] * periods

    def close() -> None:
        now.merge()
        total = int(now.counts.sum())
        if total:
            shares[period] = float(now.counts[~np.isin(now.ids, before.ids, assume_unique=True)].sum() / total)
        before._waiting.append((now.ids, now.counts))
        before.merge()

    for number, columns in _ordered(dataset):
        if number != period:
            close()
            now, period = _Counter(), number
        now.add(_ids(columns, dataset.fields, field))
    close()
    return before, shares


def _ids(columns: Columns, fields: tuple[Field, ...], number: int) -> NDArray[np.int64]:
    before = sum(field.multi for field in fields[:number])
    if not fields[number].multi:
        assert columns.ids is not None
        return columns.ids[:, number - before]
    return columns.bags[before].compact().values


def _field(field: Field, counter: _Counter) -> FieldStats:
    counts = np.sort(counter.counts)[::-1]
    total = int(counts.sum())
    shares = np.cumsum(counts) / max(total, 1)
    ranks = [10**k for k in range(12) if 10**k < len(counts)] + [len(counts)] * bool(len(counts))
    return FieldStats(
        name=field.name,
        distinct=len(counts),
        once=int(np.count_nonzero(counts == 1)),
        values=total,
        coverage=tuple((rank, float(shares[rank - 1])) for rank in ranks),
    )


def save_plots(found: Stats, folder: str | Path) -> list[Path]:
    """Draws token frequencies, label rate and new tokens by period as SVG files; needs ``robe[plots]``.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("matplotlib is not installed; `pip install 'robe[plots]'`") from error
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, draw in (("frequency", _draw_frequency), ("label_rate", _draw_label_rate), ("new_tokens", _draw_new)):
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        draw(found, figure.subplots())
        files.append(folder / f"{name}.svg")
        figure.savefig(files[-1])
    return files


def _draw_frequency(found: Stats, axes: Axes) -> None:
    for number, field in enumerate(found.fields):
        style = _LINES[number // 10 % len(_LINES)]
        axes.plot(*zip(*field.coverage, strict=True), style, marker=".", linewidth=1, label=field.name)
    axes.set(xscale="log", xlabel="most frequent ids", ylabel="share of the values", ylim=(0, 1.02))
    axes.legend(ncols=3, fontsize=7)


def _draw_label_rate(found: Stats, axes: Axes) -> None:
    axes.plot(range(1, len(found.periods) + 1), [period.label_rate for period in found.periods], marker="o")
    axes.set(xlabel="period", ylabel="label rate")
    axes.set_ylim(0, 1.1 * axes.dataLim.y1)
    axes.locator_params("x", integer=True)


def _draw_new(found: Stats, axes: Axes) -> None:
    # In the first period all are new, which would leave the others no room.
    for number, field in enumerate(found.fields):
        shares = [period.unseen[number] for period in found.periods[1:]]
        style = _LINES[number // 10 % len(_LINES)]
        axes.plot(range(2, len(shares) + 2), shares, style, marker=".", linewidth=1, label=field.name)
    axes.set(xlabel="period", ylabel="values with an id that no earlier period has")
    axes.set_ylim(0, max(1.1 * axes.dataLim.y1, 0.01) if found.periods[1:] else 1)
    axes.locator_params("x", integer=True)
    axes.legend(ncols=3, fontsize=7)
