"""Lookup and interaction in one Triton kernel against the reference, to rounding."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from triton_cases import DEVICE, EXAMPLES, ints, to_device

from robe.functional import Fields
from robe.layout import Layout, Table
from robe.ops import reference
from robe.ops.triton import ops

DTYPES = {torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def check(dim, count, size, z, dtype, has_dense, use_sign=False, rows=50):
    tables = tuple(Table(str(i), rows, dim, direct=i == 1) for i in range(count))
    layout = Layout(tables, 997 + rows * dim, z, use_sign=use_sign)
    fields = Fields.of(layout, padding=[None] * (count - 1) + [3])
    array, ids = torch.randn(layout.num_slots).to(dtype), ints(0, rows, (size, count))
    dense = torch.randn(size, dim).to(dtype) if has_dense else None
    exact = [None if t is None else t.double() for t in (array, dense)]
    want = reference.lookup_dot(*exact, ids, fields.specs, fields.hash_spec, fields.width)
    grad = torch.randn(want.shape).to(dtype)
    wants = reference.lookup_dot_backward(grad.double(), *exact, ids, fields.specs, fields.hash_spec, fields.width)
    arguments = (*to_device(array, dense, ids, fields.specs), fields.hash_spec, fields.width)
    got = ops.lookup_dot(*arguments)
    gots = ops.lookup_dot_backward(grad.to(DEVICE), *arguments)
    # Sums of as many products of normal numbers as there are elements, or vectors.
    tolerance = DTYPES[dtype]
    for result, expected, terms in ((got, want, dim), *((g, w, count) for g, w in zip(gots, wants, strict=True))):
        assert result.dtype == dtype
        torch.testing.assert_close(result.cpu().double(), expected, rtol=tolerance, atol=4 * tolerance * terms**0.5)


@settings(max_examples=EXAMPLES // 2, deadline=None)
@given(
    dim=st.sampled_from([1, 7, 8, 16, 20]),
    count=st.sampled_from([1, 2, 15, 16, 17, 26, 33]),
    size=st.sampled_from([0, 1, 2]),
    dtype=st.sampled_from(list(DTYPES)),
    has_dense=st.booleans(),
    use_sign=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_equals_the_reference(dim, count, size, dtype, has_dense, use_sign, seed):
    torch.manual_seed(seed)
    check(dim, count, size, min(dim, 4), dtype, has_dense, use_sign)


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize(("dim", "z"), [(128, 128), (128, 8), (200, 2), (16, 64)])
def test_shapes(dim, z, dtype):
    check(dim, 26 if dim == 128 else 5, 2, z, dtype, has_dense=True, rows=9)


def test_what_it_does_not_do_is_said():
    layout = Layout(tuple(Table(str(i), 5, 4) for i in range(64)), 997, 4)
    fields = Fields.of(layout)
    arguments = (torch.zeros(1, 64, dtype=torch.int64), fields.specs, fields.hash_spec, fields.width)
    with pytest.raises(TypeError, match=r"array: expected dtype torch.float32 .* got torch.float64"):
        ops.lookup_dot(torch.zeros(997, dtype=torch.float64), None, *arguments)
    with pytest.raises(ValueError, match="up to 64 vectors per sample, got 65"):
        ops.lookup_dot(torch.zeros(997), torch.zeros(1, 4), *arguments)
