"""The array's optimizers against torch.optim's, over many steps."""

import copy
import pickle

import pytest
import torch
from torch import nn

import robe
from robe import optim
from robe.ops import native

RULES = [
    (optim.SGD, torch.optim.SGD, {"lr": 0.3}),
    (optim.SGD, torch.optim.SGD, {"lr": 0.3, "maximize": True}),
    (optim.SGD, torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.01}),
    (optim.SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.1, "weight_decay": 0.01}),
    (optim.SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True}),
    (optim.Adagrad, torch.optim.Adagrad, {"lr": 0.1}),
    (optim.Adagrad, torch.optim.Adagrad, {"lr": 0.1, "lr_decay": 0.01, "initial_accumulator_value": 0.1, "eps": 1e-6}),
    (optim.Adagrad, torch.optim.Adagrad, {"lr": 0.1, "weight_decay": 0.01, "maximize": True}),
    (optim.Adam, torch.optim.Adam, {"lr": 0.01}),
    (optim.Adam, torch.optim.Adam, {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.01}),
    (optim.Adam, torch.optim.Adam, {"lr": 0.01, "maximize": True}),
]
TABLES = [robe.Table("a", 40, 8), robe.Table("b", None, 8), robe.Table("c", 5, 8)]


def make(num_slots=3001, **options):
    torch.manual_seed(1)
    return robe.RobeEmbeddingCollection(TABLES, num_slots=num_slots, init_std=1.0, **options)


def batches(count, size=30):
    torch.manual_seed(2)
    rows = (40, 2**60, 5)
    return [torch.stack([torch.randint(0, n, (size,)) for n in rows], 1) for _ in range(count)]


def loss_of(collection, ids):
    return (collection(ids) * torch.arange(1.0, 9.0)).square().mean()


def train(collection, optimizer, count=25, accumulate=1):
    for i, ids in enumerate(batches(count)):
        loss_of(collection, ids).backward()
        if (i + 1) % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()


def assert_equal_training(ours, theirs, collection, twin):
    """To rounding of values of size 1 that have been through dozens of updates."""
    torch.testing.assert_close(collection.array, twin.array, rtol=2e-5, atol=2e-5)
    for name, value in theirs.state[twin.array].items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(ours.state[collection.array][name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("has_kernel", [True, False])
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize(("ours", "theirs", "options"), RULES)
def test_equal_to_torch_optim(ours, theirs, options, accumulate, has_kernel, monkeypatch):
    if not has_kernel:
        monkeypatch.setattr(ours, "_fuses", lambda *_: False)
    elif native.library is None:
        pytest.skip(native.reason)
    collection, twin = make(), make()
    fused, plain = ours(collection, **options), theirs(twin.parameters(), **options)
    train(collection, fused, accumulate=accumulate)
    train(twin, plain, accumulate=accumulate)
    assert not torch.equal(collection.array, make().array)
    assert_equal_training(fused, plain, collection, twin)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("ours", "theirs", "options"), RULES[::5])
def test_other_dtypes(ours, theirs, options, dtype):
    collection, twin = make(dtype=dtype), make(dtype=dtype)
    train(collection, ours(collection, **options), 5)
    train(twin, theirs(twin.parameters(), **options), 5)
    if dtype == torch.float64:
        torch.testing.assert_close(collection.array, twin.array)
    else:  # the dense gradient and torch's own step
        assert torch.equal(collection.array, twin.array)


@pytest.mark.skipif(native.library is None, reason=native.reason)
@pytest.mark.parametrize("num_slots", [3001, 2_000_003])
@pytest.mark.parametrize("rule", [optim.SGD, optim.Adagrad, optim.Adam])
def test_no_gradient_of_the_arrays_size(rule, num_slots):
    collection = make(num_slots)
    optimizer = rule(collection, lr=0.1)
    before = collection.array.detach().clone()
    ids = batches(1)[0]
    loss_of(collection, ids).backward()
    assert collection.array.grad is None
    optimizer.step()
    assert collection.array.grad is None
    touched = torch.zeros(num_slots, dtype=torch.bool)
    for t in range(3):
        touched[collection.slots(t, ids[:, t])] = True
    assert torch.equal(collection.array.detach() != before, touched)


@pytest.mark.skipif(native.library is None, reason=native.reason)
@pytest.mark.parametrize("rule", [optim.SGD, optim.Adagrad, optim.Adam])
@pytest.mark.parametrize("num_slots", [3001, 2_000_003])
def test_the_same_bits_for_any_number_of_threads(rule, num_slots):
    results, before = [], torch.get_num_threads()
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        collection = make(num_slots)
        optimizer = rule(collection, lr=0.1)
        for ids in batches(3, size=3000):
            loss_of(collection, ids).backward()
            optimizer.step()
        results.append(collection.array.detach())
    torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_embeddings_and_bags_that_share_an_array(mode):
    def build():
        torch.manual_seed(1)
        bag = robe.RobeEmbeddingBag(50, 6, mode=mode, num_slots=501, padding_idx=3)
        return nn.ModuleList([bag, robe.RobeEmbedding(50, 4, array=bag, table_id=1)])

    def run(modules, optimizer):
        torch.manual_seed(2)
        for _ in range(10):
            a = modules[0](torch.randint(0, 50, (20, 5)))
            b = modules[1](torch.randint(0, 50, (20,)))
            (a.square().mean() + b.square().mean()).backward()
            optimizer.step()
            optimizer.zero_grad()

    ours, theirs = build(), build()
    run(ours, optim.Adagrad(ours, lr=0.1))
    run(theirs, torch.optim.Adagrad(theirs.parameters(), lr=0.1))
    torch.testing.assert_close(ours[0].array, theirs[0].array, rtol=1e-5, atol=1e-5)


def test_weights_get_their_gradient():
    bag = robe.RobeEmbeddingBag(50, 6, mode="sum", num_slots=501)
    optimizer = optim.SGD(bag, lr=0.1)
    ids, weights = torch.randint(0, 50, (4, 5)), torch.rand(4, 5, requires_grad=True)
    before = bag.array.detach().clone()
    bag(ids, per_sample_weights=weights).sum().backward()
    got = weights.grad.clone()
    want = bag.materialize()[ids].sum(-1)
    torch.testing.assert_close(got, want)
    optimizer.step()
    assert not torch.equal(bag.array, before)


def test_zero_grad_drops_what_was_recorded():
    collection = make()
    optimizer = optim.SGD(collection, lr=0.1)
    before = collection.array.detach().clone()
    loss_of(collection, batches(1)[0]).backward()
    optimizer.zero_grad()
    optimizer.step()
    assert torch.equal(collection.array, before)


def test_step_uses_up_what_was_recorded():
    collection = make()
    optimizer = optim.SGD(collection, lr=0.1)
    loss_of(collection, batches(1)[0]).backward()
    optimizer.step()
    after = collection.array.detach().clone()
    optimizer.step()
    assert torch.equal(collection.array, after)


def test_materialized_gradients_can_be_clipped():
    collection, twin = make(), make()
    ours, theirs = optim.SGD(collection, lr=0.1), torch.optim.SGD(twin.parameters(), lr=0.1)
    for ids in batches(5):
        for c, optimizer in ((collection, ours), (twin, theirs)):
            loss_of(c, ids).backward()
            if optimizer is ours:
                ours.materialize_grads()
            nn.utils.clip_grad_norm_(c.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()
    assert torch.equal(collection.array, twin.array)


def test_compiled_lookups_have_ordinary_gradients():
    collection, twin = make(), make()
    compiled = torch.compile(collection, backend="aot_eager", fullgraph=True)
    ours, theirs = optim.Adagrad(collection, lr=0.1), torch.optim.Adagrad(twin.parameters(), lr=0.1)
    train(compiled, ours, 4)
    train(twin, theirs, 4)
    torch.testing.assert_close(collection.array, twin.array)


def test_without_its_optimizer_an_array_has_ordinary_gradients():
    collection = make()
    optimizer = optim.SGD(collection)
    twins = [copy.deepcopy(collection), pickle.loads(pickle.dumps(collection))]
    for twin in twins:
        loss_of(twin, batches(1)[0]).backward()
        assert twin.array.grad is not None
    del optimizer
    loss_of(collection, batches(1)[0]).backward()
    assert torch.equal(collection.array.grad, twins[0].array.grad)


def test_a_second_optimizer_takes_over():
    collection = make()
    first = optim.SGD(collection)
    second = optim.SGD(collection, lr=0.1)
    before = collection.array.detach().clone()
    loss_of(collection, batches(1)[0]).backward()
    with pytest.raises(RuntimeError, match="another optimizer has taken this array over"):
        first.step()
    second.step()
    assert not torch.equal(collection.array, before)


def test_ids_that_change_before_the_step_are_noticed():
    collection = make()
    optimizer = optim.SGD(collection)
    ids = batches(1)[0]
    loss_of(collection, ids).backward()
    ids.zero_()
    with pytest.raises(RuntimeError, match="modified in place between backward"):
        optimizer.step()


def test_a_step_makes_saved_tensors_stale():
    """Like every in-place change: the backward of a graph from before it must not go unnoticed."""
    collection = make()
    optimizer = optim.SGD(collection)
    ids = batches(1)[0]
    old = loss_of(collection, ids)
    loss_of(collection, ids).backward()
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        old.backward()


def test_state_dicts_are_torchs():
    collection, twin = make(), make()
    ours, theirs = optim.Adam(collection, lr=0.01), torch.optim.Adam(twin.parameters(), lr=0.01)
    train(collection, ours, 5)
    train(twin, theirs, 5)
    assert ours.state_dict()["state"].keys() == theirs.state_dict()["state"].keys()
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    train(collection, ours, 5)
    train(twin, theirs, 5)
    assert_equal_training(ours, theirs, collection, twin)


def test_schedulers_and_closures():
    collection, twin = make(), make()
    for c, optimizer in ((collection, optim.SGD(collection, 0.1)), (twin, torch.optim.SGD(twin.parameters(), 0.1))):
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        for ids in batches(5):

            def closure(c=c, ids=ids, optimizer=optimizer):
                optimizer.zero_grad()
                loss = loss_of(c, ids)
                loss.backward()
                return loss

            assert optimizer.step(closure) > 0
            scheduler.step()
    torch.testing.assert_close(collection.array, twin.array)


def test_a_bad_id_changes_nothing():
    """Ids are checked in the forward; in a step they can only be wrong if they changed behind autograd's back."""
    collection = make()
    optimizer = optim.SGD(collection, lr=0.1)
    ids = batches(1)[0]
    loss_of(collection, ids).backward()
    ids.numpy()[3, 0] = 40
    before = collection.array.detach().clone()
    with pytest.raises(IndexError, match=r"expected ids in \[0, 40\), got 40"):
        optimizer.step()
    assert torch.equal(collection.array, before)


def test_other_parameters():
    model = robe.models.DLRM(make(), num_dense=2)
    others = list(optim.other_parameters(model))
    assert len(others) == len(list(model.parameters())) - 1
    assert all(p is not model.embedding.array for p in others)


def test_wrong_modules():
    with pytest.raises(ValueError, match="expected at least one ROBE embedding, found none"):
        optim.SGD(nn.Linear(2, 2))
    with pytest.raises(TypeError, match="expected modules that contain ROBE embeddings, got Parameter"):
        optim.SGD(make().parameters())
