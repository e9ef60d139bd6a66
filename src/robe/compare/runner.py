"""Carries a plan out: tunes on validation, trains every seed, and leaves the results in a folder."""

from __future__ import annotations

import dataclasses
import fcntl
import itertools
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from robe.compare import page
from robe.compare.facts import data_facts, environment_facts
from robe.compare.files import replace_text, write_json, write_results_csv, write_summary_csv
from robe.compare.plan import Plan, flat_config
from robe.compare.records import Arm, Comparison, Record, Value
from robe.data import PreparedDataset
from robe.train import RunConfig, RunResult, build_model, load_config, load_result
from robe.train import run as train_run
from robe.train.config import differences
from robe.train.folder import RunFolder

log = logging.getLogger("robe")

# What one run may die of while the others are fine: divergence, memory, and what torch raises for it.
_RUN_ERRORS = (ArithmeticError, ValueError, MemoryError, RuntimeError)


class RunFailedError(ValueError):
    """A run of a comparison failed; the finished ones are kept and found again by the next attempt."""


def compare(
    plan: Plan, out: Path | str, *, keep_going: bool = False, progress: bool = False, command: str = ""
) -> Comparison:
    """Trains everything in ``plan`` and writes the results into ``out``.

    Each run is an ordinary run folder ``out/runs/<name>``. Finished runs of the same config and data are reused and
    unfinished ones resumed, so a killed comparison goes on when it is started again. Values to tune are chosen per arm
    by validation AUC with the first seed; the choice sees no test metric.

    Args:
        plan: from ``make_plan``.
        out: folder for runs and results; made when absent.
        keep_going: record a failed run and go on, rather than stop.
        progress: say on stderr which run is on, with a bar for it.
        command: the command line, for the record.

    Returns:
        The results, also written as results.json, results.csv, summary.csv, and, with the extra ``plots``, index.html.

    Raises:
        FileNotFoundError: there is no prepared data set.
        FileExistsError: ``out`` holds other things, or runs of another config, or is in use.
        ValueError: the data set lacks a split, or does not fit an arm; nothing has been trained by then.
        RunFailedError: a run failed and ``keep_going`` is false.
    """
    dataset = PreparedDataset.open(str(plan.base["data.path"]))
    for split in ("train", "validation", "test"):
        if split not in dataset.splits or dataset.rows(split) == 0:
            raise ValueError(
                f"data: a comparison needs rows for train, validation and test, {dataset.path} has none for {split}: "
                "prepare it with --validation and --test"
            )
    if not keep_going:
        _require_fitting(plan, dataset)
    out = Path(out)
    with _locked(out):
        runs = _Runs(plan, out / "runs", dataset.digest, keep_going, progress)
        runs.require_reusable()
        for arm in plan.arms:
            runs.finish(arm)
        comparison = Comparison(
            data=data_facts(dataset, str(plan.base["data.path"])),
            arms=plan.arms,
            seeds=plan.seeds,
            records=tuple(runs.records),
            trials=tuple(runs.trials),
            tuned=tuple(plan.tune),
            chosen=runs.chosen,
            environment=environment_facts(out / "runs", runs.records),
            command=command,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        write_results(comparison, out)
    return comparison


def write_results(comparison: Comparison, out: Path) -> list[Path]:
    """Writes the tables, and the page where the extra ``plots`` is installed; returns the files written."""
    files = [out / "results.json", out / "results.csv", out / "summary.csv"]
    write_json(comparison, files[0])
    write_results_csv(comparison, files[1])
    write_summary_csv(comparison, files[2])
    if page.can_render():
        files.append(out / "index.html")
        replace_text(files[-1], page.render(comparison))
    return files


def best_choice(trials: list[Record]) -> Mapping[str, Value] | None:
    """The settings of the trial with the highest validation AUC, the first of equals; None when all failed."""
    finished = [t for t in trials if t.validation_auc is not None]
    return max(finished, key=lambda t: t.validation_auc or 0.0).settings if finished else None


def _require_fitting(plan: Plan, dataset: PreparedDataset) -> None:
    """Builds every model without memory or values, so that a bad fit to the data is told before hours are spent."""
    for arm, choice in itertools.product(plan.arms, plan.choices()):
        config = plan.config(arm, choice, plan.seeds[0])
        try:
            with torch.device("meta"):
                build_model(config, dataset)
        except ValueError as error:
            raise ValueError(f"{arm.label}: {error}") from error


class _Runs:
    """The runs of a comparison, in order, with what came out of them."""

    def __init__(self, plan: Plan, folder: Path, digest: str, keep_going: bool, progress: bool) -> None:
        self.plan, self.folder, self.digest, self.keep_going, self.progress = plan, folder, digest, keep_going, progress
        self.records: list[Record] = []
        self.trials: list[Record] = []
        self.chosen: dict[str, Mapping[str, Value]] = {}
        trials = len(plan.choices()) if plan.tune else 0
        # The chosen value's run with the first seed exists already after tuning.
        self.total = len(plan.arms) * (trials + len(plan.seeds) - (1 if trials else 0))
        self.number = 0
        self.started = time.monotonic()
        self.console = Console(stderr=True, quiet=not progress, highlight=False)
        self._seen: set[str] = set()

    def require_reusable(self) -> None:
        """Finds a conflict with what lies in the folder before hours are spent."""
        for arm, choice, seed in itertools.product(self.plan.arms, self.plan.choices(), self.plan.seeds):
            config = self.plan.config(arm, choice, seed)
            _finished(config, self.folder / self.plan.run_name(arm, choice, seed), self.digest)

    def finish(self, arm: Arm) -> None:
        """Tunes an arm if asked to, and trains it with every seed."""
        choice: Mapping[str, Value] | None = {}
        if self.plan.tune:
            trials = [self._run(arm, values, self.plan.seeds[0], trial=True) for values in self.plan.choices()]
            self.trials += trials
            choice = best_choice(trials)
        if choice is None:
            error = f"every value tried in tuning failed, the last with: {trials[-1].error}"
            self.records += [Record(arm.key, arm.key, seed, error=error) for seed in self.plan.seeds]
            self.number += len(self.plan.seeds) - 1
            return
        self.chosen[arm.key] = choice
        self.records += [self._run(arm, choice, seed) for seed in self.plan.seeds]

    def _run(self, arm: Arm, choice: Mapping[str, Value], seed: int, trial: bool = False) -> Record:
        name = self.plan.run_name(arm, choice, seed)
        config = self.plan.config(arm, choice, seed)
        folder = self.folder / name
        self._announce(arm, choice, seed, name)
        try:
            result = _finished(config, folder, self.digest) or train_run(
                config, folder, progress=self.progress and self.console.is_terminal
            )
        except _RUN_ERRORS as error:
            if not self.keep_going:
                raise RunFailedError(
                    f"run {name} failed: {error}. Finished runs are kept in {self.folder} and will be reused; "
                    "change the settings of this method, or go on without it with --keep-going"
                ) from error
            log.warning("run %s failed: %s", name, error)
            return Record(name, arm.key, seed, choice, f"{error}", flat_config(config))
        return _record(name, arm, seed, choice, config, result, with_test=not trial)

    def _announce(self, arm: Arm, choice: Mapping[str, Value], seed: int, name: str) -> None:
        if name in self._seen:
            return
        self._seen.add(name)
        self.number += 1
        done, spent = self.number - 1, time.monotonic() - self.started
        left = f", about {_duration(spent / done * (self.total - done))} left" if done else ""
        tuned = "".join(f" {key.partition('.')[2]}={value}" for key, value in choice.items())
        what = f"[bold]run {self.number}/{self.total}[/] {arm.label}{tuned} seed {seed}"
        self.console.print(f"{what} [dim]{_duration(spent)} so far{left}[/]", soft_wrap=True)


def _finished(config: RunConfig, folder: Path, digest: str) -> RunResult | None:
    """The result of a run of this config and data that is already there.

    Raises:
        FileExistsError: a run is there, of another config or other data.
    """
    files = RunFolder(folder)
    if not files.config.exists():
        return None
    # The data set may have moved; what counts is its content.
    changed = [line for line in differences(load_config(files.config), config) if not line.startswith("data.path")]
    if files.dataset.exists() and json.loads(files.dataset.read_text(encoding="utf-8"))["digest"] != digest:
        changed.append("the content of the data set")
    if changed:
        raise FileExistsError(
            f"{folder} holds a run that differs in {'; '.join(changed)}: choose another --out, or remove that folder"
        )
    return load_result(folder)


def _record(
    name: str, arm: Arm, seed: int, choice: Mapping[str, Value], config: RunConfig, result: RunResult, with_test: bool
) -> Record:
    test = result.metrics["test"] if with_test else {}
    record = Record(
        run=name,
        arm=arm.key,
        seed=seed,
        settings=choice,
        config=flat_config(config),
        validation_auc=result.metrics["validation"]["auc"],
        validation_logloss=result.metrics["validation"]["logloss"],
        test_auc=test.get("auc"),
        test_logloss=test.get("logloss"),
        best_epoch=result.best_epoch,
        epochs=result.epochs_run,
        steps=result.steps,
        seconds=result.seconds,
        samples_per_second=result.samples_per_second,
        embedding_parameters=result.parameters["embedding"],
        dense_parameters=result.parameters["dense"],
        full_parameters=result.parameters["full"],
        compression=result.compression,
        megabytes=result.megabytes,
        curve=tuple((h["epoch"], h["auc"]) for h in result.history if h["auc"] is not None and math.isfinite(h["auc"])),
    )
    undefined: dict[str, Any] = {
        k: None for k, v in vars(record).items() if isinstance(v, float) and not math.isfinite(v)
    }
    return dataclasses.replace(record, **undefined)  # JSON has no NaN


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Holds ``out`` for this process, and refuses a folder that is no comparison."""
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out}: expected a folder for the comparison, found a file")
    if out.exists() and not (out / "runs").exists() and not (out / "results.json").exists():
        strangers = sorted(p.name for p in out.iterdir() if not p.name.startswith("."))
        if strangers:
            raise FileExistsError(f"{out} is no comparison, yet holds {strangers[:3]}: choose a new or an empty folder")
    (out / "runs").mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileExistsError(
                f"{out}: another comparison is writing into this folder; wait for it, or choose another folder"
            ) from None
        yield


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
