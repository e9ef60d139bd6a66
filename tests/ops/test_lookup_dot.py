"""Lookup and interaction in one op against the lookup followed by torch's interaction."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import robe
from robe.functional import Fields, robe_lookup, robe_lookup_dot
from robe.layout import Layout, Table
from robe.models import DLRM
from robe.nn.interactions import DotInteraction
from robe.ops import native

op = torch.ops.robe


def unfused(ids, dense, array, fields):
    vectors = robe_lookup(ids, array, fields).view(len(ids), fields.num_fields, fields.width // fields.num_fields)
    if dense is None:
        return DotInteraction(fields.num_fields)(vectors)
    vectors = torch.cat([dense.unsqueeze(1), vectors], 1)
    return torch.cat([dense, DotInteraction(fields.num_fields + 1)(vectors)], 1)


@settings(max_examples=60, deadline=None)
@given(
    dim=st.sampled_from([1, 2, 7, 8, 16, 20, 64]),
    count=st.sampled_from([1, 2, 3, 15, 16, 17, 26, 33]),
    size=st.sampled_from([0, 1, 9]),
    has_dense=st.booleans(),
    use_sign=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_equals_lookup_and_interaction(dim, count, size, has_dense, use_sign, seed):
    torch.manual_seed(seed)
    layout = Layout(tuple(Table(str(i), 50, dim) for i in range(count)), 997, min(dim, 4), use_sign=use_sign)
    fields = Fields.of(layout, padding=[None] * (count - 1) + [3])
    array = torch.randn(997, requires_grad=True)
    ids = torch.randint(0, 50, (size, count))
    dense = torch.randn(size, dim, requires_grad=True) if has_dense else None
    got, want = robe_lookup_dot(ids, dense, array, fields), unfused(ids, dense, array, fields)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5 * dim)
    inputs = [array] if dense is None else [array, dense]
    grad = torch.randn_like(got)
    if got.numel() == 0:
        return
    for a, b in zip(torch.autograd.grad(got, inputs, grad), torch.autograd.grad(want, inputs, grad), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("has_dense", [True, False])
def test_opcheck(has_dense):
    layout = Layout(tuple(Table(str(i), 50, 8) for i in range(5)), 97, 4)
    fields = Fields.of(layout)
    array = torch.randn(97, requires_grad=True)
    dense = torch.randn(3, 8, requires_grad=True) if has_dense else None
    ids = torch.randint(0, 50, (3, 5))
    tail = (ids, fields.specs, fields.hash_spec, fields.width)
    torch.library.opcheck(op.lookup_dot, (array, dense, *tail))
    grad = torch.randn(3, 23 if has_dense else 10)
    detached = None if dense is None else dense.detach()
    torch.library.opcheck(op.lookup_dot_backward, (grad, array.detach(), detached, *tail))


def test_other_dtypes_use_the_reference():
    layout = Layout(tuple(Table(str(i), 50, 8) for i in range(5)), 97, 4)
    coll = robe.RobeEmbeddingCollection(layout.tables, num_slots=97, dtype=torch.float64)
    ids = torch.randint(0, 50, (3, 5))
    assert not coll.fuses_dot(ids)
    assert DLRM(coll, num_dense=0).double()(None, ids).dtype == torch.float64


def test_autocast_uses_the_unfused_interaction():
    """Autocast makes the bottom MLP's output half precision while the array stays float32."""
    coll = robe.RobeEmbeddingCollection([robe.Table("a", 50, 8), robe.Table("b", 50, 8)], num_slots=97)
    with torch.autocast("cpu", torch.bfloat16):
        assert DLRM(coll, num_dense=3)(torch.rand(4, 3), torch.zeros(4, 2).long()).isfinite().all()


@pytest.mark.skipif(native.library is None, reason=native.reason)
def test_dlrm_uses_it_and_learns_the_same():
    tables = [robe.Table(str(i), 100, 16) for i in range(26)]

    def train(fused):
        torch.manual_seed(0)
        model = DLRM(robe.RobeEmbeddingCollection(tables, num_slots=5000, init_std=0.1), bottom_mlp=(8,), top_mlp=(8,))
        optimizer = robe.optim.SGD(model, lr=0.1) if fused else torch.optim.SGD([model.embedding.array], lr=0.1)
        others = torch.optim.SGD(robe.optim.other_parameters(model), lr=0.1)
        if not fused:
            model.embedding.fuses_dot = lambda *_: False
        for _ in range(5):
            model(torch.rand(64, 13), torch.randint(0, 100, (64, 26))).square().mean().backward()
            for each in (optimizer, others):
                each.step()
                each.zero_grad()
        return model

    fused, plain = train(True), train(False)
    for a, b in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("ids", "dense", "error", "message"),
    [
        (torch.zeros(2, 3).long(), None, ValueError, r"ids: expected shape \[B, 2\]"),
        (torch.zeros(2, 2), None, TypeError, "ids: expected dtype torch.int64"),
        (torch.zeros(2, 2).long(), torch.zeros(2, 3), ValueError, r"dense: expected shape \(2, 4\), got \(2, 3\)"),
        (torch.zeros(2, 2).long(), torch.zeros(2, 4).double(), TypeError, "dense: expected dtype torch.float32"),
    ],
)
def test_bad_arguments(ids, dense, error, message):
    layout = Layout((Table("a", 10, 4), Table("b", 10, 4)), 33, 2)
    with pytest.raises(error, match=message):
        robe_lookup_dot(ids, dense, torch.zeros(33), Fields.of(layout))
