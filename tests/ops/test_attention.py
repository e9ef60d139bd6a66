"""The attention kernel against attention written out, and as an operator of torch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from robe.nn.interactions import SelfAttention
from robe.ops import native
from robe.ops.attention import attention, reference

SHAPES = [  # B, F, heads, size of a head: lanes of 16, 8, 4 and 1, whole and partly filled vectors, one, none
    (3, 26, 2, 8), (2, 10, 2, 32), (4, 7, 3, 5), (2, 39, 1, 16), (2, 33, 4, 12), (1, 1, 1, 1), (5, 16, 2, 4),
    (300, 3, 2, 6), (0, 26, 2, 8), (2, 0, 2, 8),
]  # fmt: skip


def written_out(parts, heads, residual):
    """One query at a time, in float64."""
    parts = parts.double()
    outputs = parts.shape[2] // (4 if residual else 3)
    query, key, value, *rest = parts.split(outputs, dim=2)
    size = outputs // heads
    columns = []
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        for i in range(parts.shape[1]):
            scores = (query[:, i : i + 1, part] * key[:, :, part]).sum(2)  # [B, F]
            shares = torch.exp(scores - scores.max(1, keepdim=True).values)
            shares = shares / shares.sum(1, keepdim=True)
            columns.append((shares[:, :, None] * value[:, :, part]).sum(1))
    if not columns:
        return torch.relu(sum(rest, value * 0))
    out = torch.stack(columns, 1).unflatten(1, (heads, parts.shape[1])).transpose(1, 2).flatten(2)
    return torch.relu(out + rest[0] if residual else out)


def compare(parts, heads, residual, rtol=1e-5, atol=2e-5):
    parts = parts.requires_grad_()
    exact = parts.detach().double().requires_grad_()
    want, got = written_out(exact, heads, residual), attention(parts, heads, residual)
    assert_close(got, want.float(), rtol=rtol, atol=atol)
    grad = torch.randn(want.shape) * (want.detach().abs() > 1e-4)  # not where rounding decides on which side of 0 it is
    (want_grad,) = torch.autograd.grad(want, exact, grad.double())
    (got_grad,) = torch.autograd.grad(got, parts, grad)
    assert_close(got_grad, want_grad.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize(("batch", "count", "heads", "size"), SHAPES)
def test_results_and_gradients(batch, count, heads, size, residual):
    torch.manual_seed(0)
    compare(torch.randn(batch, count, heads * size * (3 + residual)), heads, residual)


@settings(deadline=None)
@given(
    st.integers(0, 20), st.integers(0, 40), st.integers(1, 4), st.integers(1, 20), st.booleans(), st.integers(0, 1000)
)
def test_any_shape(batch, count, heads, size, residual, seed):
    torch.manual_seed(seed)
    compare(torch.randn(batch, count, heads * size * (3 + residual)), heads, residual)


def test_large_scores_saturate_and_do_not_overflow():
    parts = torch.randn(4, 26, 64)
    compare(parts * 4, 2, True, rtol=1e-4, atol=1e-3)
    parts = (parts * 1e4).requires_grad_()  # scores of 1e9
    out = attention(parts, 2, True)
    (grad,) = torch.autograd.grad(out.sum(), parts)
    assert out.isfinite().all()
    assert grad.isfinite().all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_shows_in_its_sample_alone(bad):
    parts = torch.randn(3, 26, 64)
    want = attention(parts, 2, True)
    parts[1, 4, 20] = bad  # of a key of head 0, which every query of the head meets
    got = attention(parts, 2, True)
    assert_close(got, written_out(parts, 2, True).float(), equal_nan=True, rtol=1e-5, atol=2e-5)
    assert not got[1].isfinite().all()
    assert got[::2].equal(want[::2])


@pytest.mark.skipif(native.library is None, reason=native.reason)
@pytest.mark.parametrize("threads", [1, 2])
def test_results_do_not_depend_on_threads(threads):
    torch.manual_seed(1)
    parts = torch.randn(500, 26, 64, requires_grad=True)
    before = torch.get_num_threads()
    results = []
    try:
        for number in (1, threads + 1):
            torch.set_num_threads(number)
            out = attention(parts, 2, True)
            results.append((out.detach().clone(), torch.autograd.grad(out.square().sum(), parts)[0]))
    finally:
        torch.set_num_threads(before)
    assert results[0][0].equal(results[1][0])
    assert results[0][1].equal(results[1][1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("residual", [True, False])
def test_is_an_operator_as_torch_expects(dtype, residual):
    parts = torch.randn(3, 5, 8 * (3 + residual), dtype=dtype, requires_grad=dtype != torch.bfloat16)
    torch.library.opcheck(torch.ops.robe.attention.default, (parts, 2, residual))
    out = torch.ops.robe.attention(parts, 2, residual)
    assert_close(out, reference(parts, 2, residual))


def test_gradients_in_float64():
    parts = torch.randn(2, 4, 4 * 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: attention(x, 3, True), parts)
    assert torch.autograd.gradcheck(lambda x: torch.ops.robe.attention(x, 3, True), parts)


def test_other_strides():
    wide = torch.randn(6, 2 * 64, 5)
    parts = wide.transpose(1, 2)[:, :, ::2]
    assert_close(attention(parts, 2, True), attention(parts.contiguous(), 2, True))


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # by inductor itself
def test_is_exported_and_compiled():
    layer = SelfAttention(8, 4)
    features = torch.randn(3, 5, 8)
    size = torch.export.Dim("B")
    exported = torch.export.export(layer, (features,), dynamic_shapes=({0: size},)).module()
    compiled = torch.compile(layer, fullgraph=True)
    for rows in (2, 3):
        features = torch.randn(rows, 5, 8)
        assert_close(exported(features), layer(features))
        assert_close(compiled(features), layer(features))
