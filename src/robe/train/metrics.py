"""Exact AUC and logloss of logits.

Not torchmetrics: its ``binary_auroc`` sends logits through a float32 sigmoid, where all above about 17 become ties,
and returns float32. Counting pairs in integers is exact, and as short.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from robe.checks import require_ndim


def auc(logits: Tensor, labels: Tensor) -> float:
    """Area under the ROC curve: how often a positive row scores above a negative one, ties counting one half.

    Any increasing function of the probabilities gives the same value.

    Args:
        logits: scores, floating [N].
        labels: 0 or 1, any dtype [N].

    Returns:
        The area in double precision; NaN when only one class is present, for then there is no pair to compare.

    Raises:
        ValueError: the shapes differ, a score is NaN, or a label is not 0 or 1.
    """
    _check(logits, labels)
    if logits.numel() == 0:
        return float("nan")
    scores, order = logits.sort()
    positive = labels[order].long()
    _, counts = torch.unique_consecutive(scores, return_counts=True)
    ends = counts.cumsum(0)
    up_to = positive.cumsum(0)[ends - 1]  # positives at or below each distinct score
    positives = torch.diff(up_to, prepend=up_to.new_zeros(1))
    negatives = counts - positives
    below = negatives.cumsum(0) - negatives
    twice_the_wins = int((positives * (2 * below + negatives)).sum())  # int64: exact up to 2e9 rows of each class
    pairs = int(positives.sum()) * int(negatives.sum())
    return twice_the_wins / (2 * pairs) if pairs else float("nan")


def logloss(logits: Tensor, labels: Tensor) -> float:
    """Mean binary cross entropy in nats, in double precision.

    Args:
        logits: log odds, floating [N].
        labels: 0 or 1, any dtype [N].

    Returns:
        The mean; NaN for no rows.

    Raises:
        ValueError: the shapes differ, a logit is NaN, or a label is not 0 or 1.
    """
    _check(logits, labels)
    return F.binary_cross_entropy_with_logits(logits.double(), labels.double()).item()


def _check(logits: Tensor, labels: Tensor) -> None:
    require_ndim("logits", logits, 1)
    if logits.shape != labels.shape:
        raise ValueError(f"labels: expected the shape of logits {tuple(logits.shape)}, got {tuple(labels.shape)}")
    if bool(logits.isnan().any()):
        raise ValueError("logits: expected numbers, got NaN: the model has diverged, or its input has NaN")
    if not bool(((labels == 0) | (labels == 1)).all()):
        raise ValueError("labels: expected 0 or 1, got other values: does this split have labels?")
