"""Scores of a model over one split of a prepared data set."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from robe.checks import nearest, require_positive
from robe.train.metrics import auc, logloss
from robe.train.progress import bar

if TYPE_CHECKING:
    from robe.data import PreparedDataset

log = logging.getLogger("robe")


def evaluate(
    model: nn.Module, dataset: PreparedDataset, split: str = "test", *, batch_size: int = 16384, progress: bool = False
) -> dict[str, Any]:
    """Exact AUC and logloss of ``model`` on a split.

    Args:
        model: (dense, ids) -> logits [B].
        dataset: prepared data set.
        split: ``"train"``, ``"validation"``, ``"test"`` or ``"predict"``.
        batch_size: rows at a time.
        progress: show a progress bar on stderr.

    Returns:
        ``{"auc": float, "logloss": float, "rows": int}``; the AUC is NaN, with a note in the log, where the split
        has one class only.

    Raises:
        ValueError: there is no such split, it is empty or without labels, or the model returns NaN.
    """
    logits, labels = score(model, dataset, split, batch_size=batch_size, progress=progress)
    area = auc(logits, labels)
    if math.isnan(area):
        log.info("the split %r has rows of one class only: its AUC is not defined and reported as NaN", split)
    return {"auc": area, "logloss": logloss(logits, labels), "rows": len(labels)}


def predict(
    model: nn.Module, dataset: PreparedDataset, split: str = "test", *, batch_size: int = 16384, progress: bool = False
) -> Tensor:
    """Probabilities of a click for every row of a split, in stored order.

    Args:
        model: (dense, ids) -> logits [B].
        dataset: prepared data set.
        split: name of the split.
        batch_size: rows at a time.
        progress: show a progress bar on stderr.

    Returns:
        float32 [rows] on the CPU.
    """
    return score(model, dataset, split, batch_size=batch_size, progress=progress)[0].sigmoid()


def score(
    model: nn.Module, dataset: PreparedDataset, split: str, *, batch_size: int = 16384, progress: bool = False
) -> tuple[Tensor, Tensor]:
    """Logits and labels of a split, float32 [rows] each, on the CPU, in stored order."""
    require_positive("batch_size", batch_size)
    if split not in dataset.splits:
        raise ValueError(f"split: unknown {split!r}; {nearest(split, dataset.splits)}")
    part, rows = dataset.split(split), dataset.rows(split)
    if rows == 0:
        raise ValueError(f"split: expected rows in {split!r}, found none in {dataset.path}")
    device = next(model.parameters()).device
    logits, labels = torch.empty(rows), torch.empty(rows)
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(), bar(f"scoring {split}", rows, progress) as report:
            for start in range(0, rows, batch_size):
                stop = min(start + batch_size, rows)
                batch = part.read(start, stop)
                labels[start:stop] = batch.label
                batch = batch.to(device)
                logits[start:stop] = model(batch.dense, batch.ids).float()
                report.advance(stop - start)
    finally:
        model.train(training)
    return logits, labels
