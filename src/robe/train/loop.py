"""The training loop: steps, evaluations, early stopping, checkpoints; resumable at every checkpoint, bit for bit."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robe.train.checkpoint import Checkpoint
from robe.train.config import TrainConfig
from robe.train.folder import MetricsLog, RunFolder
from robe.train.metrics import auc, logloss
from robe.train.optimizers import clip_gradients, vector_penalty
from robe.train.progress import bar
from robe.train.schedule import rate_factor
from robe.train.scoring import score

if TYPE_CHECKING:
    from robe.data import Batch, Loader, PreparedDataset


@dataclass
class State:
    """Where a run stands, besides its tensors.

    Args:
        step: optimizer steps done.
        stale: evaluations since the best one.
        drops: evaluations without a better validation AUC, over the whole run: drops of the learning rate.
        best: step, epoch, auc, logloss and pointer of the best checkpoint; the pointer is None in that checkpoint
            itself.
        seconds: wall time in the loop.
        train_seconds: of it, in training steps, loading included, but for the first step of a process.
        samples: rows trained on in that time.
        metrics_bytes: length of the metrics file.
    """

    step: int = 0
    stale: int = 0
    drops: int = 0
    best: dict[str, Any] | None = None
    seconds: float = 0.0
    train_seconds: float = 0.0
    samples: int = 0
    metrics_bytes: int = 0


class Loop:
    """Trains a model into a run folder.

    Args:
        config: how to train.
        model: (dense [B, num_dense] or None, ids) -> logits [B], on its device.
        optimizers: over its parameters.
        dataset: with the splits ``train`` and ``validation``.
        loader: of the train split.
        folder: where checkpoints and metrics go.
        tensorboard: an optional SummaryWriter.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: nn.Module,
        optimizers: list[torch.optim.Optimizer],
        dataset: PreparedDataset,
        loader: Loader,
        folder: RunFolder,
        tensorboard: Any = None,
    ) -> None:
        self.config, self.model, self.optimizers = config, model, optimizers
        self.dataset, self.loader, self.folder, self.tensorboard = dataset, loader, folder, tensorboard
        self.device = next(model.parameters()).device
        self.steps_per_epoch = len(loader)
        self.state = State()
        self.learning_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
        self.total = config.epochs * self.steps_per_epoch
        if config.max_steps is not None:
            self.total = min(self.total, config.max_steps)

    @property
    def epoch(self) -> float:
        """Passes over the training rows so far."""
        return self.state.step / self.steps_per_epoch

    @property
    def done(self) -> bool:
        """Whether all steps are done, or the validation AUC has stopped rising or reached its target."""
        patience, target, best = self.config.early_stop_patience, self.config.target_auc, self.state.best
        return (
            self.state.step >= self.total
            or (patience is not None and self.state.stale >= patience)
            or (target is not None and best is not None and best["auc"] >= target)
        )

    def fit(self, log: MetricsLog, progress: bool = False) -> None:
        """Trains until ``done``."""
        every = self.config.eval_every or self.steps_per_epoch
        batches = self._batches()
        self.model.train()
        # Said explicitly, as sparse Adagrad makes torch warn otherwise.
        unchecked = torch.sparse.check_sparse_tensor_invariants(enable=False)  # type: ignore[no-untyped-call]
        with unchecked, bar("training", self.total, progress, self.state.step) as report:
            window, warming_up = _Window(self.device), True
            while not self.done:
                batch = next(batches)
                window.add(self._step(batch), batch.size)
                self.state.step += 1
                if warming_up:  # the first step of a process pays for imports and memory: not a rate
                    self.state.seconds += window.restart()
                    warming_up = False
                report.advance()
                evaluation = self.state.step % every == 0 or self.state.step == self.total
                checkpoint = self.config.checkpoint_every and self.state.step % self.config.checkpoint_every == 0
                if evaluation or checkpoint or self.state.step % self.config.log_every == 0:
                    report.note(self._flush(window, log))
                if evaluation:
                    self._evaluate(log)
                if evaluation or checkpoint:
                    self._checkpoint(log)
                    self.state.seconds += window.restart()

    def restore(self, checkpoint: Checkpoint) -> None:
        """Goes back to where ``checkpoint`` was taken."""
        state = dict(checkpoint.state)
        self.loader.load_state_dict(state.pop("loader"))
        self.state = State(**state)
        self.model.load_state_dict(dict(checkpoint.model))
        for optimizer, saved in zip(self.optimizers, checkpoint.optimizer["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        torch.set_rng_state(checkpoint.optimizer["rng"])
        if self.device.type == "cuda" and "cuda_rng" in checkpoint.optimizer:
            torch.cuda.set_rng_state(checkpoint.optimizer["cuda_rng"], self.device)

    def _batches(self) -> Iterator[Batch]:
        while True:
            yield from self.loader

    def _step(self, batch: Batch) -> Tensor:
        batch = batch.to(self.device, non_blocking=True)
        factor = rate_factor(self.config, self.state.step, self.epoch, self.state.drops)
        for optimizer, rates in zip(self.optimizers, self.learning_rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            optimizer.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.autocast == "bfloat16"):
            logits = self.model(batch.dense, batch.ids)
        loss = F.binary_cross_entropy_with_logits(logits.float(), batch.label)
        penalty = vector_penalty(self.config, self.model, batch.ids)
        total = loss if penalty is None else loss + penalty
        total.backward()  # type: ignore[no-untyped-call]
        if self.config.clip_norm is not None:
            clip_gradients(self.model, self.optimizers, self.config.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        return loss.detach()

    def _flush(self, window: _Window, log: MetricsLog) -> str:
        """Writes the mean loss of the steps since the last line; the one place where it is read from the device."""
        loss, samples, seconds = window.close()
        self.state.train_seconds += seconds
        self.state.samples += samples
        self.state.seconds += seconds
        if not math.isfinite(loss):
            raise self._diverged("train loss", loss)
        rate = samples / seconds
        self._write(log, {"split": "train", "loss": loss, "samples_per_second": round(rate) or None})
        best = f", best AUC {self.state.best['auc']:.5f}" if self.state.best else ""
        return f"{rate:,.0f} samples/s, epoch {self.epoch:.2f}, loss {loss:.4f}{best}"

    def _evaluate(self, log: MetricsLog) -> None:
        logits, labels = score(self.model, self.dataset, "validation", batch_size=self.config.eval_batch_size)
        if not bool(logits.isfinite().all()):
            raise self._diverged("logits on the validation split", float("nan"))
        metrics = {"auc": auc(logits, labels), "logloss": logloss(logits, labels)}
        self._write(log, {"split": "validation", **metrics})
        if self.state.best is None or metrics["auc"] > self.state.best["auc"]:
            self.state.best = {"step": self.state.step, "epoch": self.epoch, **metrics, "pointer": None}
            self.state.stale = 0
        else:
            self.state.stale += 1
            self.state.drops += 1

    def _checkpoint(self, log: MetricsLog) -> None:
        self.state.metrics_bytes = log.sync()
        best = self.state.best is not None and self.state.best["step"] == self.state.step
        optimizer = {"optimizers": [o.state_dict() for o in self.optimizers], "rng": torch.get_rng_state()}
        if self.device.type == "cuda":
            optimizer["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        state = dataclasses.asdict(self.state) | {"loader": self.loader.state_dict()}
        checkpoint = Checkpoint(self.model.state_dict(), optimizer, state)
        pointer = self.folder.save(f"step-{self.state.step:09d}", checkpoint, best=best)
        if best and self.state.best is not None:
            self.state.best["pointer"] = pointer

    def _write(self, log: MetricsLog, values: dict[str, Any]) -> None:
        log.write({"step": self.state.step, "epoch": round(self.epoch, 6), **values})
        if self.tensorboard is not None:
            for key, value in values.items():
                if key != "split" and value is not None:
                    self.tensorboard.add_scalar(f"{values['split']}/{key}", value, self.state.step)

    def _diverged(self, what: str, value: float) -> FloatingPointError:
        kept = f"; the last good checkpoint is kept in {self.folder.path}" if self.folder.last.exists() else ""
        return FloatingPointError(
            f"{what} became {value} by step {self.state.step} with train.learning_rate={self.config.learning_rate} "
            f"and optimizer {self.config.optimizer!r}: lower the learning rate, or embedding.init_std{kept}"
        )


class _Window:
    """Sums losses on the device between two flushes, and times them."""

    def __init__(self, device: torch.device) -> None:
        self._sum = torch.zeros((), dtype=torch.float64, device=device)
        self._steps = self._samples = 0
        self._start = time.perf_counter()

    def add(self, loss: Tensor, samples: int) -> None:
        self._sum += loss
        self._steps += 1
        self._samples += samples

    def close(self) -> tuple[float, int, float]:
        """Mean loss, samples and seconds since the last close; begins anew."""
        mean, samples = self._sum.item() / self._steps, self._samples
        self._sum.zero_()
        self._steps = 0
        return mean, samples, self.restart()

    def restart(self) -> float:
        """Seconds since the last restart; they and their samples are left out of the next close."""
        now = time.perf_counter()
        seconds, self._start = now - self._start, now
        self._samples = 0
        return seconds
