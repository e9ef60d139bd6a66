"""What the loop does in a step, against loops written out by hand in plain torch."""

import hashlib
import json

import pytest
import torch
from torch.nn import functional as F

from robe.data import Loader, PreparedDataset
from robe.train import build_model, build_optimizers, load_run, resolve, run
from robe.train.checkpoint import read_json
from robe.train.device import generators, threads
from robe.train.loop import Loop
from robe.train.optimizers import embeddings_of

STEPS = 12
SGD = ["train.optimizer=sgd", "train.learning_rate=0.5", "embedding.init_std=0.3", f"train.max_steps={STEPS}"]


def twin(config, step):
    """The parameters that a run ends with, if ``step(model, index, batch, loss)`` is all that it does."""
    config = resolve(config)
    dataset, train = PreparedDataset.open(config.data.path), config.train
    loader = Loader(dataset, "train", train.batch_size, seed=train.seed, window_rows=train.shuffle_rows)
    with generators(torch.device("cpu"), train.seed), threads(1):
        model = build_model(config, dataset)
        for index, batch in zip(range(STEPS), loader, strict=False):
            model.zero_grad()
            step(model, index, batch)
    return dict(model.named_parameters())


def loss_of(model, batch):
    return F.binary_cross_entropy_with_logits(model(batch.dense, batch.ids), batch.label)


def descend(parameters, rate):
    with torch.no_grad():
        for parameter in parameters:
            parameter -= rate * parameter.grad.to_dense()


def squares(parameters):
    return sum(parameter.square().sum() for parameter in parameters)


def split(model):
    """Network and embeddings."""
    tables = list(embeddings_of(model).parameters())
    return [p for p in model.parameters() if all(p is not table for table in tables)], tables


def compare(folder, expected, **tolerance):
    trained = dict(load_run(folder).model.named_parameters())
    assert trained.keys() == expected.keys()
    for name, value in trained.items():
        torch.testing.assert_close(value, expected[name], msg=lambda text, name=name: f"{name}: {text}", **tolerance)


@pytest.mark.parametrize("kind", ["robe", "hashing"])
def test_penalty_on_parameters(config, tmp_path, kind):
    this = config(
        *SGD, f"embedding.kind={kind}", "train.weight_decay=0.02", "train.embedding_weight_decay=0.1",
        "train.embedding_learning_rate=2",
    )  # fmt: skip

    def step(model, index, batch):
        network, tables = split(model)
        (loss_of(model, batch) + 0.01 * squares(network) + 0.05 * squares(tables)).backward()
        descend(network, 0.5)
        descend(tables, 2)

    run(this, tmp_path)
    compare(tmp_path, twin(this, step), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["robe", "full"])
def test_penalty_on_vectors(config, tmp_path, kind):
    """Full tables keep their sparse gradients."""
    this = config(
        *SGD, f"embedding.kind={kind}", "train.embedding_weight_decay=0.4", "train.embedding_decay_on=vectors",
    )  # fmt: skip
    assert resolve(this).train.sparse_gradients is (kind == "full")

    def step(model, index, batch):
        penalty = 0.2 * model.embedding(batch.ids).square().sum((1, 2)).mean()
        (loss_of(model, batch) + penalty).backward()
        descend(model.parameters(), 0.5)

    run(this, tmp_path)
    compare(tmp_path, twin(this, step), rtol=1e-4, atol=1e-6)


def test_clipping(config, tmp_path):
    this = config(*SGD, "train.clip_norm=0.02")

    def step(model, index, batch):
        loss_of(model, batch).backward()
        assert torch.nn.utils.clip_grad_norm_(model.parameters(), 0.02) > 0.02, "there is something to clip"
        descend(model.parameters(), 0.5)

    run(this, tmp_path)
    compare(tmp_path, twin(this, step), rtol=1e-4, atol=1e-6)


def test_rates_of_the_schedule(config, tmp_path):
    this = config(
        *SGD, "train.warmup_steps=5", "train.decay_start_step=8", "train.decay_steps=8", "train.base_batch_size=400",
        "train.batch_scaling=sqrt",
    )  # fmt: skip
    factors = [0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 49 / 64, 36 / 64, 25 / 64, 16 / 64]

    def step(model, index, batch):
        loss_of(model, batch).backward()
        descend(model.parameters(), 0.5 * 0.5 * factors[index])

    run(this, tmp_path)
    compare(tmp_path, twin(this, step), rtol=1e-4, atol=1e-6)


def test_autocast_is_of_the_forward_alone(config, tmp_path):
    """To the same bits as a loop with autocast, and to others than one without."""
    this = config(f"train.max_steps={STEPS}", "train.autocast=bfloat16")
    results = {}
    for enabled in (True, False):
        optimizers = []

        def step(model, index, batch, enabled=enabled, optimizers=optimizers):
            if not optimizers:
                optimizers += build_optimizers(resolve(this).train, model)
            for optimizer in optimizers:
                optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                logits = model(batch.dense, batch.ids)
            F.binary_cross_entropy_with_logits(logits.float(), batch.label).backward()
            for optimizer in optimizers:
                optimizer.step()

        results[enabled] = twin(this, step)
    run(this, tmp_path)
    compare(tmp_path, results[True], rtol=0, atol=0)
    assert not all(torch.equal(a, b) for a, b in zip(*(r.values() for r in results.values()), strict=True))
    assert {value.dtype for value in results[True].values()} == {torch.float32}


class CrashError(Exception):
    """Stands for a crash."""


@pytest.fixture
def watched(monkeypatch):
    """The rate of every step done; ``watched.crash_at`` is a step at which the process dies."""

    class Watched(list):
        crash_at = None

    seen, original = Watched(), Loop._step

    def step(self, batch):
        if self.state.step == seen.crash_at:
            raise CrashError
        loss = original(self, batch)
        (rate,) = {group["lr"] for optimizer in self.optimizers for group in optimizer.param_groups}
        seen.append(rate)
        return loss

    monkeypatch.setattr(Loop, "_step", step)
    return seen


def test_rates_drop_at_every_evaluation_without_a_better_auc(config, tmp_path, monkeypatch, watched):
    """Also in a run that was killed after two drops."""
    scores = iter([0.6, 0.5, 0.7, 0.7, 0.6])
    monkeypatch.setattr("robe.train.loop.auc", lambda logits, labels: next(scores))
    this = config("train.epochs=5", "train.plateau_factor=0.1", "train.early_stop_patience=none")
    watched.crash_at = 100
    with pytest.raises(CrashError):
        run(this, tmp_path)
    assert watched[::24] == pytest.approx([0.01, 0.01, 1e-3, 1e-3, 1e-4])
    assert watched[24 * 2 - 1 : 24 * 2 + 1] == pytest.approx([0.01, 1e-3])
    watched.clear()
    watched.crash_at = None
    run(this, tmp_path)
    assert watched == pytest.approx([1e-4] * 24)


@pytest.mark.parametrize("kind", ["robe", "hashing"])
def test_a_checkpoint_of_before_these_fields_goes_on(config, tmp_path, watched, kind):
    this = config(f"embedding.kind={kind}")
    whole = run(this, tmp_path / "whole")
    watched.crash_at = 30
    with pytest.raises(CrashError):
        run(this, tmp_path / "old")
    watched.crash_at = None
    pointer = read_json(tmp_path / "old/last.json")
    file = tmp_path / "old/checkpoints" / pointer["checkpoint"] / "state.json"
    document = json.loads(file.read_text())
    del document["state"]["drops"], document["model_aliases"]
    file.write_text(json.dumps(document))
    pointer["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    for name in ("last.json", "best.json"):
        (tmp_path / "old" / name).write_text(json.dumps(pointer))
    assert run(this, tmp_path / "old", resume="must").metrics == whole.metrics
