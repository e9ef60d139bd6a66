"""The optimizers' steps by Triton kernels against torch.optim."""

import copy

import pytest
import torch
from triton_cases import DEVICE, ints

import robe
from robe.ops import cuda


@pytest.fixture
def on_any_device(monkeypatch):
    """The kernels step CPU tensors too, in the interpreter."""
    monkeypatch.setattr(cuda, "fuses_step", lambda array: array.dtype in cuda.STEP_DTYPES)
    monkeypatch.setattr(robe.optim.arrays._ArrayOptimizer, "_fuses", lambda *_: False)


RULES = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "maximize": True}),
    ("SGD", {"lr": torch.tensor(0.1)}),
    ("SGD", {"lr": torch.tensor(0.1, device=DEVICE), "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01, "maximize": True}),
    ("Adagrad", {"lr": 0.1}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.01, "eps": 1e-6, "maximize": True}),
    ("Adam", {"lr": 0.1}),
    ("Adam", {"lr": 0.1, "betas": (0.5, 0.0), "weight_decay": 0.01, "eps": 1e-6, "maximize": True}),
]


def embedding(dtype):
    tables = [robe.Table("a", 50, 4), robe.Table("b", None, 4)]
    torch.manual_seed(0)
    return robe.RobeEmbeddingCollection(tables, num_slots=301, dtype=dtype, device=DEVICE, init_std=1.0)


def train(module, optimizer, steps=3):
    torch.manual_seed(1)
    for _ in range(steps):
        for _ in range(2):  # gradients of two batches together
            ids = ints(0, 50, (6, 2)).to(DEVICE)
            (module(ids) * torch.randn(6, 2, 4).to(DEVICE, module.array.dtype)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "options"), RULES)
def test_equals_torch(name, options, dtype, deterministic, on_any_device):
    torch.use_deterministic_algorithms(deterministic)
    ours, theirs = embedding(dtype), embedding(dtype)
    optimizer = getattr(robe.optim, name)(ours, **options)
    twin = getattr(torch.optim, name)([theirs.array], **options)
    version = ours.array._version
    train(ours, optimizer)
    assert ours.array.grad is None
    assert ours.array._version > version
    train(theirs, twin)
    torch.use_deterministic_algorithms(False)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    if isinstance(options["lr"], torch.Tensor):
        tolerance = max(tolerance, 1e-7)  # 0.1 in float32
    torch.testing.assert_close(ours.array, theirs.array, rtol=tolerance, atol=tolerance)
    saved, expected = optimizer.state_dict()["state"], twin.state_dict()["state"]
    for number, state in expected.items():
        for key, value in state.items():
            if value is not None:
                torch.testing.assert_close(
                    saved[number][key], value, rtol=10 * tolerance, atol=tolerance, check_device=False
                )


@pytest.mark.parametrize(("name", "options"), RULES[:1] + RULES[7:8])
def test_maxima_are_those_of_the_array_before_the_step(name, options, on_any_device):
    """The first batch moves what is the largest of the second, far enough to change which one it is."""

    def step(optimizer, module):
        for scale in (100.0, 1.0):
            for start in (0, 20):
                ids = robe.Jagged(
                    torch.arange(40).to(DEVICE), torch.tensor([0, start, 20, 20 + start, 40]).to(DEVICE), 2
                )
                (module(ids) * scale).sum().backward()
        optimizer.step()

    ours, theirs = embedding(torch.float64), embedding(torch.float64)
    ours.mode = theirs.mode = "max"
    step(getattr(robe.optim, name)(ours, **options), ours)
    step(getattr(torch.optim, name)([theirs.array], **options), theirs)
    torch.testing.assert_close(ours.array, theirs.array, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["SGD", "Adagrad", "Adam"])
def test_goes_on_from_a_state_of_torch(name, on_any_device):
    options = {"lr": 0.1, **({"momentum": 0.9} if name == "SGD" else {})}
    ours, theirs = embedding(torch.float32), embedding(torch.float32)
    twin = getattr(torch.optim, name)([theirs.array], **options)
    train(theirs, twin)
    with torch.no_grad():
        ours.array.copy_(theirs.array)
    optimizer = getattr(robe.optim, name)(ours, **options)
    optimizer.load_state_dict(copy.deepcopy(twin.state_dict()))
    train(ours, optimizer)
    train(theirs, twin)
    torch.testing.assert_close(ours.array, theirs.array, rtol=1e-5, atol=1e-5)
