"""``run``: from a configuration to a trained model in a run folder."""

from __future__ import annotations

import dataclasses
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from robe.checks import nearest
from robe.train.build import build_model, count
from robe.train.checkpoint import load_checkpoint, read_json, write_json, write_text
from robe.train.config import RunConfig, resolve, to_yaml
from robe.train.device import generators, pick_device, threads
from robe.train.encoding import encoding
from robe.train.environment import environment
from robe.train.folder import MetricsLog, Resume, RunFolder, jsonable
from robe.train.loop import Loop
from robe.train.optimizers import build_optimizers, embeddings_of
from robe.train.result import RunResult
from robe.train.scoring import evaluate

if TYPE_CHECKING:
    from robe.data import PreparedDataset


def run(
    config: RunConfig, out: Path | str, *, resume: Resume = "auto", overwrite: bool = False, progress: bool = False
) -> RunResult:
    """Trains a model and leaves it, its metrics and its configuration in a run folder.

    The same configuration, data and machine give the same bits on the CPU, also when the run was killed and
    resumed. Torch's global random generator is left as it was.

    Args:
        config: what to train.
        out: run folder; made when absent.
        resume: with an unfinished run of the same configuration in ``out``: ``"auto"`` goes on from its last
            checkpoint, or from the beginning where there is none; ``"never"`` starts it again; ``"must"`` is an
            error when there is nothing to go on from.
        overwrite: replace any run in ``out``.
        progress: show a progress bar on stderr.

    Returns:
        The result, with the test split evaluated once, on the checkpoint of the best validation AUC.

    Raises:
        FileExistsError: ``out`` holds a finished run, another run, or other files, or is in use.
        FileNotFoundError: there is no data set, or nothing to resume with ``"must"``.
        ValueError: the configuration or the data do not fit, or a checkpoint is damaged.
        FloatingPointError: the training diverged.
        ModuleNotFoundError: TensorBoard is asked for and not installed.
    """
    from robe.data import Loader, PreparedDataset

    if resume not in get_args(Resume):
        raise ValueError(f"resume: unknown {resume!r}; {nearest(str(resume), get_args(Resume))}")
    if resume == "must" and overwrite:
        raise ValueError("resume='must' and overwrite=True exclude each other: give one of them")
    if not config.data.path:
        raise ValueError("data.path: expected a prepared data set, a folder made by robe prepare; none was given")
    config = resolve(config)
    device = pick_device(config.train.device)
    dataset = PreparedDataset.open(config.data.path)
    _require_trainable(dataset)
    folder = RunFolder(out)
    with threads(config.train.threads), generators(device, config.train.seed), folder.lock():
        model = build_model(config, dataset).to(device)
        optimizers = build_optimizers(config.train, model)
        loader = Loader(
            dataset, "train", config.train.batch_size, seed=config.train.seed, window_rows=config.train.shuffle_rows
        )
        tensorboard = _summary_writer() if config.train.tensorboard else None

        checkpoint = folder.find(config, dataset.digest, resume, overwrite)
        if checkpoint is None:
            write_text(folder.config, to_yaml(config))
            write_json(folder.dataset, _describe(dataset))
            write_json(folder.environment, environment(device))
        else:
            started = read_json(folder.environment)
            again = environment(device) | {"step": checkpoint.state["step"]}
            write_json(folder.environment, started | {"resumed": [*started.get("resumed", []), again]})

        step = 0 if checkpoint is None else checkpoint.state["step"]
        writer = tensorboard(str(folder.tensorboard), purge_step=step + 1) if tensorboard else None
        loop = Loop(config.train, model, optimizers, dataset, loader, folder, writer)
        if checkpoint is not None:
            loop.restore(checkpoint)
        with (
            closing(writer) if writer else nullcontext(),
            MetricsLog(folder.metrics, loop.state.metrics_bytes) as metrics,
        ):
            loop.fit(metrics, progress)
            result = _finish(loop, metrics, progress)
        write_json(folder.result, jsonable(dataclasses.asdict(result)))
        folder.last.unlink()
        folder.prune()
    return result


def _finish(loop: Loop, log_: MetricsLog, progress: bool) -> RunResult:
    state, best = loop.state, loop.state.best
    assert best is not None, "the last step is always evaluated"
    if best["step"] != state.step:
        pointer = read_json(loop.folder.best)
        loop.model.load_state_dict(dict(load_checkpoint(loop.folder.checkpoints, pointer, model_only=True).model))
    metrics = {"validation": {"auc": best["auc"], "logloss": best["logloss"]}}
    if "test" in loop.dataset.splits and loop.dataset.rows("test"):
        scores = evaluate(loop.model, loop.dataset, "test", batch_size=loop.config.eval_batch_size, progress=progress)
        metrics["test"] = {"auc": scores["auc"], "logloss": scores["logloss"]}
        log_.write({"step": best["step"], "epoch": round(best["epoch"], 6), "split": "test", **metrics["test"]})
        log_.sync()
    sizes = count(loop.model)
    bytes_ = sum(p.numel() * p.element_size() for p in embeddings_of(loop.model).parameters())
    return RunResult(
        metrics=metrics,
        best_epoch=best["epoch"],
        epochs_run=loop.epoch,
        steps=state.step,
        samples_per_second=state.samples / state.train_seconds if state.samples else float("nan"),
        seconds=state.seconds,
        parameters=dataclasses.asdict(sizes),
        compression=float("nan") if sizes.full is None else sizes.full / sizes.embedding,
        megabytes=bytes_ / 1e6,
        history=[
            {key: line[key] for key in ("step", "epoch", "auc", "logloss")}
            for line in log_.lines()
            if line["split"] == "validation"
        ],
    )


def _require_trainable(dataset: PreparedDataset) -> None:
    for split in ("train", "validation"):
        if split not in dataset.splits or dataset.rows(split) == 0:
            raise ValueError(
                f"data: expected rows in the split {split!r}, {dataset.path} has "
                f"{ {name: dataset.rows(name) for name in dataset.splits} }: prepare it with a validation fraction"
            )
    part, rows = dataset.split("validation"), dataset.rows("validation")
    positives = sum(int(part.read(i, min(i + 65536, rows)).label.sum()) for i in range(0, rows, 65536))
    if positives in (0, rows):
        raise ValueError(
            f"data: the validation split of {dataset.path} has {positives} clicks in {rows} rows; AUC and early "
            "stopping need both classes: prepare it with more validation rows or another label"
        )


def _describe(dataset: PreparedDataset) -> dict[str, Any]:
    return {
        "path": str(Path(dataset.path).resolve()),
        "digest": dataset.digest,
        "encoding": encoding(dataset),
        "rows": {split: dataset.rows(split) for split in dataset.splits},
        "dense_names": list(dataset.dense_names),
        "fields": [dataclasses.asdict(field) for field in dataset.fields],
    }


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "train.tensorboard: TensorBoard is not installed: pip install 'robe[tensorboard]'"
        ) from error
    return SummaryWriter
