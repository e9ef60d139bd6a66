"""What a run leaves: its result, and its best model."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from robe.train.build import build_model
from robe.train.checkpoint import load_checkpoint, read_json
from robe.train.config import RunConfig, differences, load_config, resolve
from robe.train.device import generators, pick_device
from robe.train.encoding import require_same_encoding
from robe.train.folder import RunFolder

if TYPE_CHECKING:
    from robe.data import Field, PreparedDataset

log = logging.getLogger("robe")


@dataclass(frozen=True)
class RunResult:
    """What came out of a training run; ``result.json`` in its folder.

    Args:
        metrics: ``{"validation": {"auc", "logloss"}, "test": {...}}`` of the best checkpoint; test only where the
            data set has one. A value that is not defined is NaN (null in the file).
        best_epoch: passes over the training rows until the best validation AUC; fractions where evaluations are
            more frequent than epochs.
        epochs_run: passes made.
        steps: optimizer steps made.
        samples_per_second: training rows per second, loading included; evaluations, checkpoints and the first step
            of a process are left out. NaN for a run of one step.
        seconds: wall time of the loop, over all processes that worked on the run.
        parameters: ``{"embedding", "dense", "full"}``: stored by the embedding, by the rest of the model, and by
            full tables (None without a vocabulary).
        compression: ``full / embedding`` parameters; NaN without a vocabulary.
        megabytes: 1e6 bytes of embedding parameters.
        history: the evaluations on the validation split: step, epoch, auc, logloss.
    """

    metrics: dict[str, dict[str, float]]
    best_epoch: float
    epochs_run: float
    steps: int
    samples_per_second: float
    seconds: float
    parameters: dict[str, int | None]
    compression: float
    megabytes: float
    history: list[dict[str, Any]]


class LoadedRun(NamedTuple):
    """A finished run, ready for use; ``encoding`` is None for a run saved before it was recorded."""

    config: RunConfig
    model: nn.Module
    fields: tuple[Field, ...]
    dense_names: tuple[str, ...]
    digest: str
    encoding: dict[str, Any] | None = None

    def require(self, dataset: PreparedDataset) -> None:
        """Raises ValueError unless fields, tables, numeric features and ids of ``dataset`` are those of training."""
        for name, own, theirs in (
            ("fields", self.fields, dataset.fields),
            ("numeric features", self.dense_names, dataset.dense_names),
        ):
            if own != theirs:
                differing = [f"{b} for {a}" for a, b in zip_longest(own, theirs) if a != b]
                raise ValueError(
                    f"{dataset.path}: its {name} are not those the model was trained on: got {differing[0]}; "
                    "encode the raw rows with the trained data set's own vocabulary (robe predict does)"
                )
        if self.encoding is not None:
            require_same_encoding(dataset, self.encoding, self.digest)
        # Direct hashes and vocabularies fix what an id means; of other ids nothing is known but their numbers.
        known = self.encoding is not None and self.encoding["ids"] in ("direct", "vocabulary")
        if not known and dataset.digest != self.digest:
            log.info("%s is not the data set of the run: its ids must have been made in the same way", dataset.path)


@dataclass(frozen=True)
class _Schema:
    fields: tuple[Field, ...]
    dense_names: tuple[str, ...]


def load_result(out: Path | str, config: RunConfig | None = None) -> RunResult | None:
    """The result of a finished run.

    Args:
        out: run folder.
        config: if given, the run must have this configuration.

    Returns:
        The result, or None where ``out`` holds no finished run, or one of another configuration.
    """
    folder = RunFolder(out)
    if not folder.result.exists():
        return None
    if config is not None and differences(load_config(folder.config), resolve(config)):
        return None
    content = read_json(folder.result)
    for key in ("compression", "samples_per_second"):
        content[key] = _number(content[key])
    content["metrics"] = {
        split: {key: _number(value) for key, value in values.items()} for split, values in content["metrics"].items()
    }
    return RunResult(**content)


def load_run(path: Path | str, *, device: str = "auto") -> LoadedRun:
    """Loads the best model of a run.

    Args:
        path: run folder; an unfinished run gives the best checkpoint so far.
        device: as in ``TrainConfig.device``.

    Returns:
        Configuration, model in evaluation mode, and the fields and numeric features it expects.

    Raises:
        FileNotFoundError: there is no run, or none with a checkpoint.
        ValueError: a file of it is damaged.
    """
    from robe.data import Field

    folder = RunFolder(path)
    if not folder.config.exists():
        raise FileNotFoundError(f"{path}: expected a run folder made by robe train, found no config.yaml in it")
    if not folder.best.exists():
        raise FileNotFoundError(f"{path}: the run has no checkpoint yet; train on with the same command")
    config = load_config(folder.config)
    described = read_json(folder.dataset)
    fields = tuple(Field(**field) for field in described["fields"])
    dense_names = tuple(described["dense_names"])
    where = pick_device(device)
    with generators(where, 0):  # building draws initial values
        model = build_model(config, _Schema(fields, dense_names))
    saved = load_checkpoint(folder.checkpoints, read_json(folder.best), model_only=True).model
    try:
        model.load_state_dict(dict(saved))
    except RuntimeError as error:
        raise ValueError(
            f"{path}: the weights do not fit its config.yaml; has the file been changed? {error}"
        ) from error
    return LoadedRun(
        config, model.to(where).eval(), fields, dense_names, described["digest"], described.get("encoding")
    )


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
