import math

import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from robe.train import auc, logloss


def sample(rows, *, ties=False, scale=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, generator=generator) * scale
    if ties:
        logits = (logits * 10).round() / 10
    return logits, (torch.rand(rows, generator=generator) < torch.sigmoid(logits)).float()


@pytest.mark.parametrize("rows", [10, 1000, 1_000_000])
@pytest.mark.parametrize("ties", [False, True])
def test_agrees_with_scikit_learn(rows, ties):
    logits, labels = sample(rows, ties=ties)
    assert auc(logits, labels) == pytest.approx(roc_auc_score(labels.numpy(), logits.numpy()), abs=1e-12)
    expected = log_loss(labels.numpy(), logits.double().sigmoid().numpy())
    assert logloss(logits, labels) == pytest.approx(expected, abs=1e-12)


def test_large_logits_are_no_ties():
    """A float32 sigmoid is 1.0 for every one of these."""
    logits, labels = sample(10_000, scale=1.0)
    assert auc(logits + 40, labels) == pytest.approx(roc_auc_score(labels.numpy(), (logits + 40).numpy()), abs=1e-12)
    assert auc(logits + 40, labels) > 0.6


def test_by_hand():
    # pairs (positive, negative): 3>1, 3>2, 2>1, 2=2 -> 3.5 of 4
    assert auc(torch.tensor([1.0, 2.0, 2.0, 3.0]), torch.tensor([0, 0, 1, 1])) == 3.5 / 4
    assert auc(torch.tensor([5.0, 5.0]), torch.tensor([0, 1])) == 0.5
    assert logloss(torch.tensor([0.0]), torch.tensor([1.0])) == pytest.approx(math.log(2))
    assert logloss(torch.tensor([1000.0]), torch.tensor([0.0])) == 1000.0


@pytest.mark.parametrize("labels", [[], [1.0], [0.0, 0.0]])
def test_one_class_has_no_auc(labels):
    assert math.isnan(auc(torch.zeros(len(labels)), torch.tensor(labels)))


def test_order_of_rows_does_not_matter():
    logits, labels = sample(1000, ties=True)
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(1))
    assert auc(logits[order], labels[order]) == auc(logits, labels)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([0.0, float("nan")], [0, 1], "got NaN"),
        ([0.0, 1.0], [0.0, float("nan")], "expected 0 or 1"),
        ([0.0, 1.0], [0, 2], "expected 0 or 1"),
        ([0.0, 1.0], [0], "expected the shape of logits"),
        ([[0.0]], [[0]], "expected 1 dimensions"),
    ],
)
@pytest.mark.parametrize("metric", [auc, logloss])
def test_bad_input(metric, logits, labels, message):
    with pytest.raises(ValueError, match=message):
        metric(torch.tensor(logits), torch.tensor(labels))
