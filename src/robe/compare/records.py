"""What a comparison found: one record a run, one summary a line of the table; plain data, no training here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Literal

Value = str | int | float | bool | None
Setting = Value | list[int] | tuple[int, ...]  # layers of a network

# Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom; beyond, the normal 1.96 is off by < 4 %.
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """One line of a comparison: a method at a size.

    Args:
        key: short unique name, used for run folders: ``robe-z4-1000x``.
        method: name of the method or variant, as the user wrote it.
        kind: embedding kind: ``robe``, ``full``, ``hashing``, ``capped``.
        size: the size asked for: ``1000x``, ``64MB``, ``27000 slots``; ``full`` for full tables.
        block_size: Z; None where the kind has no blocks.
        settings: RunConfig values of this line by dotted key, over the base config.
    """

    key: str
    method: str
    kind: str
    size: str
    block_size: int | None = None
    settings: Mapping[str, Setting] = field(default_factory=dict)

    @property
    def series(self) -> str:
        """Method and Z: what is one line in a plot against size."""
        return self.method if self.block_size is None else f"{self.method} Z={self.block_size}"

    @property
    def label(self) -> str:
        """Method, Z and size for people."""
        size = self.size.replace("x", "\N{MULTIPLICATION SIGN}")
        return self.series if size == "full" else f"{self.series} {size}"


@dataclass(frozen=True)
class Record:
    """One finished or failed run of an arm.

    Args:
        run: name of the run folder.
        arm: key of its Arm.
        seed: training seed.
        settings: values tried or chosen by tuning, by dotted config key.
        error: why it failed; None for a finished run.
        config: the resolved config, flat, by dotted key.
        validation_auc, validation_logloss: of the best checkpoint.
        test_auc, test_logloss: of the same checkpoint; None in tuning trials, which never read the test part.
        best_epoch: epochs to the best validation AUC (fractions allowed).
        samples_per_second: of training alone.
        embedding_parameters, full_parameters: parameters stored, and those of the full tables.
        megabytes: of the embedding, 10^6 bytes.
        curve: (epoch, validation AUC) of every evaluation.
    """

    run: str
    arm: str
    seed: int
    settings: Mapping[str, Value] = field(default_factory=dict)
    error: str | None = None
    config: Mapping[str, Value] = field(default_factory=dict)
    validation_auc: float | None = None
    validation_logloss: float | None = None
    test_auc: float | None = None
    test_logloss: float | None = None
    best_epoch: float | None = None
    epochs: float | None = None
    steps: int | None = None
    seconds: float | None = None
    samples_per_second: float | None = None
    embedding_parameters: int | None = None
    dense_parameters: int | None = None
    full_parameters: int | None = None
    compression: float | None = None
    megabytes: float | None = None
    curve: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Estimate:
    """Mean over seeds with its spread.

    Args:
        mean: arithmetic mean.
        spread: sample standard deviation (divisor n - 1) over seeds; None for one seed.
        seeds: n.
        interval: half width of a 95 % interval of the mean, where one was computed.
    """

    mean: float
    spread: float | None
    seeds: int
    interval: float | None = None


@dataclass(frozen=True)
class Summary:
    """One line of the table: an arm over its seeds. Estimates are None when no run of the arm finished."""

    arm: Arm
    chosen: Mapping[str, Value]
    finished: int
    failed: int
    parameters: int | None
    megabytes: float | None
    compression: float | None
    test_auc: Estimate | None
    test_logloss: Estimate | None
    validation_auc: Estimate | None
    delta_auc: Estimate | None
    best_epoch: Estimate | None
    samples_per_second: Estimate | None


@dataclass(frozen=True)
class DataFacts:
    """The data set of a comparison; ``best_auc`` is the best reachable test AUC where the generator knows it."""

    path: str
    digest: str
    rows: Mapping[str, int]
    fields: int
    dense: int
    tokens: int | None
    best_auc: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Everything a comparison found, and how. What results.json holds and the page shows."""

    data: DataFacts
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    records: tuple[Record, ...]
    trials: tuple[Record, ...] = ()
    tuned: tuple[str, ...] = ()
    chosen: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    created: str = ""
    format: Literal["robe-comparison"] = "robe-comparison"
    version: Literal[1] = 1

    @property
    def reference(self) -> Arm | None:
        """The full tables that others are measured against: the first arm of that kind."""
        return next((arm for arm in self.arms if arm.kind == "full"), None)

    def summaries(self) -> tuple[Summary, ...]:
        """One Summary an arm, in the order of the arms."""
        by_arm: dict[str, list[Record]] = {arm.key: [] for arm in self.arms}
        for record in self.records:
            by_arm[record.arm].append(record)
        reference = by_arm[self.reference.key] if self.reference else []
        return tuple(
            _summarise(arm, by_arm[arm.key], reference if arm != self.reference else [], self.chosen.get(arm.key, {}))
            for arm in self.arms
        )


def estimate(values: Iterable[float | None]) -> Estimate | None:
    """Mean and sample standard deviation of the values that are there; None when none is."""
    there = [v for v in values if v is not None]
    if not there:
        return None
    return Estimate(fmean(there), stdev(there) if len(there) > 1 else None, len(there))


def paired_difference(values: Mapping[int, float], reference: Mapping[int, float]) -> Estimate | None:
    """Mean of ``values - reference`` over the seeds of both, with a 95 % t interval when there are two or more.

    Args:
        values: metric by seed.
        reference: the same metric of the reference by seed.
    """
    differences = [values[seed] - reference[seed] for seed in sorted(values.keys() & reference.keys())]
    result = estimate(differences)
    if result is None or result.spread is None:
        return result
    quantile = _T95[result.seeds - 2] if result.seeds - 2 < len(_T95) else 1.96
    return Estimate(result.mean, result.spread, result.seeds, quantile * result.spread / result.seeds**0.5)


def _summarise(arm: Arm, runs: Sequence[Record], reference: Sequence[Record], chosen: Mapping[str, Value]) -> Summary:
    done = [r for r in runs if r.error is None]
    first = done[0] if done else None
    return Summary(
        arm=arm,
        chosen=chosen,
        finished=len(done),
        failed=len(runs) - len(done),
        parameters=first.embedding_parameters if first else None,
        megabytes=first.megabytes if first else None,
        compression=first.compression if first else None,
        test_auc=estimate(r.test_auc for r in done),
        test_logloss=estimate(r.test_logloss for r in done),
        validation_auc=estimate(r.validation_auc for r in done),
        delta_auc=paired_difference(_auc_by_seed(done), _auc_by_seed(reference)),
        best_epoch=estimate(r.best_epoch for r in done),
        samples_per_second=estimate(r.samples_per_second for r in done),
    )


def _auc_by_seed(records: Iterable[Record]) -> dict[int, float]:
    return {r.seed: r.test_auc for r in records if r.error is None and r.test_auc is not None}
