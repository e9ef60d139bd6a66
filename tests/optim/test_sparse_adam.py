"""SparseAdam against torch.optim's, which coalesces the gradient of each table."""

import copy
import pickle

import pytest
import torch
from torch import nn

from robe import optim
from robe.ops import native

needs_kernels = pytest.mark.skipif(native.library is None, reason=native.reason)
OPTIONS = [{"lr": 0.01}, {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-5}, {"lr": 0.01, "maximize": True}]
SHAPES = [(40, 8), (5, 1), (1, 3), (30_000, 16), (20_000, 5)]


def tables(dtype=torch.float32):
    torch.manual_seed(0)
    bags = [nn.EmbeddingBag(rows, dim, mode="sum", sparse=True, dtype=dtype) for rows, dim in SHAPES]
    return nn.ModuleList(bags)


def backward(bags, seed, size=300):
    torch.manual_seed(seed)
    for bag in bags:
        ids = torch.randint(0, bag.num_embeddings, (size,))
        out = bag(ids.unsqueeze(1))
        (out * torch.randn_like(out)).sum().backward()


def train(bags, optimizer, steps=8):
    for step in range(steps):
        for _ in range(1 + step % 2):  # gradients of two batches are added
            backward(bags, 2 * step + _)
        optimizer.step()
        optimizer.zero_grad()


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", OPTIONS)
def test_equal_to_torch(options, dtype):
    bags, twins = tables(dtype), tables(dtype)
    ours, theirs = optim.SparseAdam(bags.parameters(), **options), torch.optim.SparseAdam(twins.parameters(), **options)
    train(bags, ours)
    train(twins, theirs)
    tolerance = {} if dtype == torch.float64 else {"rtol": 2e-5, "atol": 2e-5}
    for bag, twin in zip(bags, twins, strict=True):
        torch.testing.assert_close(bag.weight, twin.weight, **tolerance)
        for name, value in theirs.state[twin.weight].items():
            torch.testing.assert_close(ours.state[bag.weight][name], value, **tolerance)


@needs_kernels
def test_the_kernel_is_used_and_the_gradient_stays(monkeypatch):
    monkeypatch.setattr(torch.optim.SparseAdam, "step", lambda *_: pytest.fail("torch's step"))
    bags = tables()
    optimizer = optim.SparseAdam(bags.parameters())
    backward(bags, 0)
    gradients = [bag.weight.grad for bag in bags]
    optimizer.step()
    assert all(bag.weight.grad is gradient for bag, gradient in zip(bags, gradients, strict=True))


@needs_kernels
def test_the_same_bits_for_any_number_of_threads():
    results, before = [], torch.get_num_threads()
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        bags = tables()
        train(bags, optim.SparseAdam(bags.parameters(), lr=0.1), 3)
        results.append([bag.weight.detach() for bag in bags])
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@needs_kernels
def test_elements_without_gradient_keep_value_and_moments():
    table = nn.Parameter(torch.ones(6, 2))
    optimizer = optim.SparseAdam([table], lr=0.1)
    for gradient in ([[1.0, 2.0], [3.0, 4.0]], [[0.0, 1.0], [0.0, 0.0]]):
        before = table.detach().clone(), copy.deepcopy(optimizer.state[table])
        table.grad = torch.sparse_coo_tensor([[1, 4]], torch.tensor(gradient), (6, 2), check_invariants=True)
        optimizer.step()
    changed = torch.zeros(6, 2, dtype=torch.bool)
    changed[1, 1] = True
    assert torch.equal(table.detach() != before[0], changed)
    for name in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(optimizer.state[table][name] != before[1][name], changed)


def test_what_the_kernel_does_not_take_goes_torchs_way(monkeypatch):
    """Half precision beside float32, an empty gradient, and none."""
    bags = [*tables()[:1], *tables(torch.bfloat16)[:1]]
    twins = copy.deepcopy(bags)
    parameters = [bag.weight for bag in bags]
    ours = optim.SparseAdam([*parameters, nn.Parameter(torch.ones(2, 2))], lr=0.1)
    theirs = torch.optim.SparseAdam([bag.weight for bag in twins], lr=0.1)
    for seed in range(3):
        for optimizer, pair in ((ours, bags), (theirs, twins)):
            backward(pair, seed, size=300 if seed else 0)
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(bags[0].weight, twins[0].weight, rtol=2e-5, atol=2e-5)
    assert torch.equal(bags[1].weight, twins[1].weight)
    assert [ours.state[p]["step"] for p in parameters] == [theirs.state[bag.weight]["step"] for bag in twins]


def test_dense_gradients_are_torchs_error():
    table = nn.Parameter(torch.ones(3, 2))
    table.grad = torch.ones(3, 2)
    with pytest.raises(RuntimeError, match="does not support dense gradients"):
        optim.SparseAdam([table]).step()


def test_state_dict_and_pickle_are_torchs():
    bags = tables()
    optimizer = optim.SparseAdam(bags.parameters(), lr=0.1)
    train(bags, optimizer, 2)
    theirs = torch.optim.SparseAdam(bags.parameters())
    theirs.load_state_dict(pickle.loads(pickle.dumps(optimizer.state_dict())))
    assert theirs.param_groups[0]["lr"] == 0.1
    assert torch.equal(theirs.state[bags[3].weight]["exp_avg"], optimizer.state[bags[3].weight]["exp_avg"])


@needs_kernels
def test_a_closure_and_versions():
    table = nn.Parameter(torch.ones(3, 2))
    optimizer = optim.SparseAdam([table], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.embedding(torch.tensor([1]), table, sparse=True).sum()
        loss.backward()
        return loss

    version = table._version
    assert optimizer.step(closure) == 2.0
    assert table._version > version  # a graph that still needs the old values says so
