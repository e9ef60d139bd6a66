import hashlib
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from robe.data import PreparedDataset, SyntheticSpec, generate
from robe.data.synthetic import CRITEO_CARDINALITIES, ClickModel, auc


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return generate(SyntheticSpec(60_000, scale=0.001), tmp_path_factory.mktemp("synthetic") / "data")


def test_the_cardinalities_are_the_papers() -> None:
    assert len(CRITEO_CARDINALITIES) == 26
    assert sum(CRITEO_CARDINALITIES) == 33_762_577
    spec = SyntheticSpec(1, scale=0.01)
    assert spec.field_cardinalities[0] == 100
    assert spec.field_cardinalities[2] == 101_312
    assert spec.field_cardinalities[8] == 3


def test_shape_rate_and_best_auc(made: PreparedDataset) -> None:
    assert made.num_dense == 13
    assert len(made.fields) == 26
    batch = made.split("train").read(0, 48_000)
    ids = batch.ids.numpy()
    for f, field in enumerate(made.fields):
        assert ids[:, f].min() >= 0
        assert ids[:, f].max() < field.num_embeddings
    assert batch.dense is not None
    assert batch.dense.min() >= 0
    for info in made.manifest.splits.values():
        assert info.label_rate == pytest.approx(0.25, abs=0.015)
        assert info.best_auc == pytest.approx(0.80, abs=0.015)


def test_the_best_auc_is_that_of_the_true_logit(made: PreparedDataset) -> None:
    rows = ClickModel(SyntheticSpec(60_000, scale=0.001)).rows(48_000, 54_000)
    np.testing.assert_array_equal(rows.ids, made.split("validation").read(0, 6000).ids.numpy())
    assert made.manifest.splits["validation"].best_auc == pytest.approx(
        roc_auc_score(rows.label, rows.logit), abs=1e-12
    )


def test_labels_follow_the_logit() -> None:
    rows = ClickModel(SyntheticSpec(1, scale=0.001)).rows(0, 50_000)
    p = 1 / (1 + np.exp(-rows.logit))
    for low in np.arange(0, 0.8, 0.1):
        inside = (p >= low) & (p < low + 0.1)
        error = np.sqrt((p[inside] * (1 - p[inside])).sum())
        assert abs(rows.label[inside].sum() - p[inside].sum()) < 4 * error


def test_tokens_are_zipf() -> None:
    model = ClickModel(SyntheticSpec(1, cardinalities=(10_000,), num_dense=0, zipf=1.2))
    counts = np.sort(np.bincount(model.rows(0, 200_000).ids[:, 0], minlength=10_000))[::-1]
    ranks = np.array([2, 4, 8, 16, 32, 64, 128])
    slope = np.polyfit(np.log(ranks), np.log(counts[ranks - 1]), 1)[0]
    assert slope == pytest.approx(-1.2, abs=0.2)


def test_what_is_planted_can_be_learned() -> None:
    """Main effects alone, with one weight per token, come near what they are worth, and not above the best."""
    model = ClickModel(SyntheticSpec(1, cardinalities=(50, 60, 70), num_dense=3, signal=2.0, shares=(0.6, 0.0, 0.4)))
    rows = model.rows(0, 30_000)
    shift = np.array([0, 50, 110])
    x = np.zeros((30_000, 180))
    x[np.arange(30_000)[:, None], rows.ids + shift] = 1
    x = np.hstack([x, rows.dense])
    fit = LogisticRegression(max_iter=300).fit(x[:20_000], rows.label[:20_000])
    found = roc_auc_score(rows.label[20_000:], fit.decision_function(x[20_000:]))
    best = roc_auc_score(rows.label[20_000:], rows.logit[20_000:])
    assert best - 0.01 < found < best + 0.003


def test_rows_do_not_depend_on_how_they_are_cut() -> None:
    model = ClickModel(SyntheticSpec(1, cardinalities=(500, 7), num_dense=2, seed=4))
    whole = model.rows(0, 3000)
    part = model.rows(1111, 2222)
    for name in ("label", "dense", "ids", "logit"):
        np.testing.assert_array_equal(getattr(whole, name)[1111:2222], getattr(part, name))


def test_golden() -> None:
    # A seed must mean the same data for ever. Only the logit may differ in its last bits.
    rows = ClickModel(SyntheticSpec(1, scale=0.01, seed=1)).rows(0, 2000)
    digest = hashlib.sha256(
        rows.ids.astype("<i8").tobytes() + rows.dense.astype("<f4").tobytes() + rows.label.tobytes()
    )
    assert digest.hexdigest()[:16] == "583cb5fe0e0b7f03"


def test_auc_with_ties_and_one_class() -> None:
    rng = np.random.default_rng(0)
    score = rng.integers(0, 20, 500).astype(float)
    label = (rng.random(500) < 0.3).astype(np.float32)
    assert auc(score, label) == pytest.approx(roc_auc_score(label, score), abs=1e-12)
    assert auc(score, np.zeros(500, np.float32)) is None


def test_without_dense_features_or_test_rows(tmp_path: Path) -> None:
    made = generate(SyntheticSpec(100, cardinalities=(5,), num_dense=0, test=0.0), tmp_path / "d")
    assert made.splits == ("train", "validation")
    assert made.split("train").read(0, 5).dense is None


def test_one_row(tmp_path: Path) -> None:
    made = generate(SyntheticSpec(1, cardinalities=(5, 1)), tmp_path / "d")
    assert made.rows("train") == 1
    assert made.manifest.splits["train"].best_auc is None


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"rows": 0}, "rows: expected a positive int"),
        ({"scale": 0.0}, "scale"),
        ({"scale": 2.0}, "scale"),
        ({"cardinalities": (5, 0)}, "cardinalities"),
        ({"click_rate": 1.0}, "click_rate"),
        ({"validation": 0.5, "test": 0.5}, "leave rows to train on"),
        ({"shares": (0.5, 0.5, 0.5)}, "shares"),
        ({"num_dense": -1}, "num_dense"),
        ({"zipf": 0.0}, "zipf"),
    ],
)
def test_refuses(change: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        SyntheticSpec(**{"rows": 10, **change})  # type: ignore[arg-type]
