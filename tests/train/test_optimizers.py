"""Parameter groups, penalties, clipping and precision, against steps done by hand."""

import copy
import itertools
import json

import pytest
import torch
from torch.nn import functional as F

import robe
from robe.models import DLRM, DeepFM
from robe.train import TrainConfig, load_run, run
from robe.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from robe.train.optimizers import build_optimizers, clip_gradients, vector_penalty

TABLES = [robe.Table(f"C{i}", 20, 4) for i in range(3)]


def model_of(kind="robe", first_order="own"):
    if kind == "robe":
        embedding = robe.RobeEmbeddingCollection(TABLES, num_slots=60, block_size=2, init_std=0.3)
    else:
        embedding = robe.FullEmbeddingCollection(TABLES, sparse=kind == "sparse", init_std=0.3)
    weights = embedding.first_order() if first_order == "own" else first_order
    return DeepFM(embedding, num_dense=2, mlp=(8,), dropout=0, first_order=weights, mlp_init_std=None)


def batch(rows=16):
    return torch.rand(rows, 2), torch.randint(0, 20, (rows, 3)), torch.randint(0, 2, (rows,)).float()


def loss_of(model, dense, ids, labels):
    return F.binary_cross_entropy_with_logits(model(dense, ids), labels)


def steps(model, optimizers, batches, after_backward=lambda: None, penalty=lambda model, ids: 0.0):
    for dense, ids, labels in batches:
        for optimizer in optimizers:
            optimizer.zero_grad()
        (loss_of(model, dense, ids, labels) + penalty(model, ids)).backward()
        after_backward()
        with torch.sparse.check_sparse_tensor_invariants(enable=False):  # said explicitly, as the training loop does
            for optimizer in optimizers:
                optimizer.step()


def same(model, other):
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("kind", ["robe", "full", "sparse"])
def test_every_parameter_is_in_one_optimizer_once(kind):
    model = model_of(kind)
    optimizers = build_optimizers(TrainConfig(sparse_gradients=kind == "sparse"), model)
    owned = [id(p) for o in optimizers for group in o.param_groups for p in group["params"]]
    assert sorted(owned) == sorted({id(p) for p in model.parameters()})
    classes = {"robe": robe.optim.Adam, "full": torch.optim.Adam, "sparse": robe.optim.SparseAdam}
    assert type(optimizers[-1]) is classes[kind]


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("embedding_optimizer", ["adam", "adagrad"])
def test_first_order_tables_beside_an_array_are_stepped_too(sparse, embedding_optimizer):
    weights = robe.FullEmbeddingCollection([robe.Table(t.name, 20, 1) for t in TABLES], sparse=sparse)
    model = model_of("robe", weights)
    config = TrainConfig(embedding_optimizer=embedding_optimizer)
    before = copy.deepcopy(dict(model.named_parameters()))
    optimizers = build_optimizers(config, model)
    owned = [id(p) for o in optimizers for group in o.param_groups for p in group["params"]]
    assert sorted(owned) == sorted({id(p) for p in model.parameters()})
    steps(model, optimizers, [batch()])
    assert not [name for name, p in model.named_parameters() if torch.equal(p, before[name])]


def test_tables_are_a_group_of_the_networks_optimizer_where_they_follow_it():
    """As in checkpoints of the first release."""
    model = model_of("full", "tied")
    (together,) = build_optimizers(TrainConfig(embedding_learning_rate=0.1, weight_decay=0.5), model)
    assert [(group["lr"], group["weight_decay"]) for group in together.param_groups] == [(0.001, 0.5), (0.1, 0.5)]
    assert len(build_optimizers(TrainConfig(embedding_optimizer="sgd"), model)) == 2


@pytest.mark.parametrize("kind", ["robe", "full"])
def test_groups_have_optimizers_rates_and_penalties_of_their_own(kind):
    """Network: Adam and an L2; embeddings: SGD with momentum at another rate and another L2 of every number, once."""
    model = model_of(kind)
    twin = copy.deepcopy(model)
    config = TrainConfig(
        optimizer="adam", embedding_optimizer="sgd", learning_rate=0.01, embedding_learning_rate=0.5, momentum=0.9,
        weight_decay=0.02, embedding_weight_decay=0.1,
    )  # fmt: skip
    batches = [batch() for _ in range(4)]
    steps(model, build_optimizers(config, model), batches)

    tables = list(torch.nn.ModuleList([twin.embedding, twin.first_order]).parameters())
    network = [p for p in twin.parameters() if all(p is not t for t in tables)]
    by_hand = [torch.optim.Adam(network, lr=0.01), torch.optim.SGD(tables, lr=0.5, momentum=0.9)]

    def penalty(model, ids):
        return 0.01 * sum(p.square().sum() for p in network) + 0.05 * sum(p.square().sum() for p in tables)

    steps(twin, by_hand, batches, penalty=penalty)
    same(model, twin)


def test_the_networks_penalty_is_on_the_parameters_named():
    """Weights of the deep part alone, as DeepCTR-Torch has it; every parameter still has its rate."""
    model = model_of("robe", "tied")
    config = TrainConfig(weight_decay=0.1, weight_decay_on=("deep*weight",))
    network, _ = build_optimizers(config, model)
    names = {id(p): name for name, p in model.named_parameters()}
    with_it, without = ({names[id(p)] for p in group["params"]} for group in network.param_groups)
    assert [group["weight_decay"] for group in network.param_groups] == [0.1, 0]
    assert with_it == {name for name in names.values() if name.startswith("deep") and name.endswith("weight")}
    assert with_it
    assert without
    assert with_it | without == {name for name in names.values() if not name.startswith("embedding")}
    with pytest.raises(ValueError, match=r"train\.weight_decay_on: .* got \['nothing\*'\], which match none of \['"):
        build_optimizers(TrainConfig(weight_decay=0.1, weight_decay_on=("nothing*",)), model)


@pytest.mark.parametrize("first_order", ["own", "tied"])
@pytest.mark.parametrize("kind", ["robe", "sparse"])
def test_penalty_on_looked_up_vectors(kind, first_order):
    model = model_of(kind, first_order)
    dense, ids, labels = batch()
    config = TrainConfig(embedding_weight_decay=0.3, embedding_decay_on="vectors", sparse_gradients=kind == "sparse")
    expected = model.embedding(ids).square().sum((1, 2)).mean()
    if first_order == "own":
        expected = expected + model.first_order(ids).square().sum((1, 2)).mean()
    got = vector_penalty(config, model, ids)
    torch.testing.assert_close(got, 0.15 * expected)
    optimizers = build_optimizers(config, model)
    assert all(group.get("weight_decay", 0) == 0 for group in optimizers[-1].param_groups)
    before = model.embedding(ids).detach().square().sum()
    steps(
        model,
        optimizers,
        [(dense, ids, labels)] * 30,
        penalty=lambda model, ids: 1000 * vector_penalty(config, model, ids),
    )
    assert model.embedding(ids).square().sum() < before
    assert vector_penalty(TrainConfig(embedding_decay_on="vectors"), model, ids) is None
    assert vector_penalty(TrainConfig(embedding_weight_decay=0.3), model, ids) is None


def test_clipping_counts_a_shared_array_once():
    model = model_of()
    twin = copy.deepcopy(model)
    config = TrainConfig(optimizer="sgd", learning_rate=1.0)
    optimizers, batches = build_optimizers(config, model), [batch() for _ in range(3)]
    steps(model, optimizers, batches, after_backward=lambda: clip_gradients(model, optimizers, 0.05))
    parameters = list(twin.parameters())
    norms = []
    steps(
        twin, [torch.optim.SGD(parameters, lr=1.0)], batches,
        after_backward=lambda: norms.append(torch.nn.utils.clip_grad_norm_(parameters, 0.05)),
    )  # fmt: skip
    assert min(norms) > 0.05, "there was something to clip"
    same(model, twin)


@pytest.mark.parametrize("make", [lambda e: DLRM(e, 2, (8,), (8,)), lambda e: DeepFM(e, 2, mlp=(8,), dropout=0)])
def test_bfloat16_leaves_parameters_and_gradients_in_float32(make):
    model = make(robe.RobeEmbeddingCollection(TABLES, num_slots=60, block_size=2, init_std=0.3))
    dense, ids, labels = batch(256)
    exact = loss_of(model, dense, ids, labels)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(dense, ids)
    loss = F.binary_cross_entropy_with_logits(logits.float(), labels)
    loss.backward()
    torch.testing.assert_close(loss, exact, rtol=0.02, atol=0.01)
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}


FEATURES = [
    "model.name=deepfm", "model.first_order=own", "model.mlp=[8]", "model.dropout=0.3", "train.warmup_steps=20",
    "train.plateau_factor=0.5", "train.clip_norm=0.1", "train.embedding_optimizer=adagrad", "train.weight_decay=1e-5",
    "train.embedding_weight_decay=1e-4", "train.embedding_decay_on=vectors", "train.autocast=bfloat16",
    "train.decay_start_step=40", "train.decay_steps=100", "train.base_batch_size=50", "train.batch_scaling=sqrt",
    "train.early_stop_patience=none", "train.eval_every=2",
]  # fmt: skip


@pytest.fixture
def featured(config, data):
    """A configuration with every feature at once."""
    from robe.train import load_config

    plain = [
        f"data.path={data}", "train.epochs=3", "train.batch_size=100", "model.embedding_dim=4",
        "embedding.block_size=2", "embedding.compression=4", "train.log_every=7", "train.learning_rate=0.01",
        "train.threads=1",
    ]  # fmt: skip
    return load_config(None, [*plain, *FEATURES])


def test_a_run_of_all_features_resumes_to_the_same_bits(featured, tmp_path, monkeypatch):
    from robe.train.loop import Loop

    whole = run(featured, tmp_path / "whole")
    original = Loop._step

    class CrashError(Exception):
        pass

    def crash(self, batch):
        if self.state.step == 43:
            raise CrashError
        return original(self, batch)

    monkeypatch.setattr(Loop, "_step", crash)
    with pytest.raises(CrashError):
        run(featured, tmp_path / "killed")
    monkeypatch.undo()
    resumed = run(featured, tmp_path / "killed")
    assert resumed.metrics == whole.metrics
    states = [load_run(tmp_path / name).model.state_dict() for name in ("whole", "killed")]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    history = [line["auc"] for line in whole.history]
    assert any(later <= earlier for earlier, later in itertools.pairwise(history)), "a rate was dropped"


def test_the_logged_loss_is_the_cross_entropy_alone(config, tmp_path):
    """A penalty so large that it would show."""
    penalty = ["train.embedding_weight_decay=100", "train.embedding_decay_on=vectors", "train.max_steps=7"]
    run(config(*penalty, "train.learning_rate=1e-9", "embedding.init_std=1"), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert lines[0]["split"] == "train"
    assert lines[0]["loss"] < 10


def test_a_shared_array_is_stored_once(tmp_path):
    from safetensors.torch import load_file

    model = model_of()
    state = model.state_dict()
    assert state["embedding.shared.array"].data_ptr() == state["first_order.shared.array"].data_ptr()
    pointer = save_checkpoint(tmp_path, "one", Checkpoint(state, {}, {}))
    stored = load_file(tmp_path / "one/model.safetensors")
    assert ("embedding.shared.array" in stored) + ("first_order.shared.array" in stored) == 1
    loaded = load_checkpoint(tmp_path, pointer).model
    assert loaded.keys() == state.keys()
    other = model_of()
    other.load_state_dict(dict(loaded))
    inputs = batch()[:2]
    torch.testing.assert_close(other(*inputs), model(*inputs))


def test_a_run_counts_first_order_weights_as_embeddings(config, data, tmp_path):
    from robe.train import load_config

    small = [
        "model.name=deepfm",
        "model.first_order=own",
        "model.mlp=[8]",
        "model.embedding_dim=4",
        "train.max_steps=1",
    ]
    for kind, size in (("full", []), ("robe", ["embedding.compression=5", "embedding.block_size=2"])):
        result = run(load_config(None, [f"data.path={data}", f"embedding.kind={kind}", *size, *small]), tmp_path / kind)
        assert result.parameters["full"] == (50 + 40 + 30) * (4 + 1)
        assert result.compression == (1 if kind == "full" else 5)
