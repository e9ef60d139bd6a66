"""The Triton kernels against the reference: bit for bit forward, to rounding backward."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from triton_cases import DEVICE, EXAMPLES, gradient_bounds, ints, lookups, quantized, to_device

import robe
from robe.functional import Fields
from robe.layout import Layout, Table
from robe.ops import reference
from robe.ops.triton import ops
from robe.ops.triton import plan as plan_module
from robe.ops.triton.plan import plan_of


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def check(array, ids, offsets, weights, fields, mode, wide=False):
    want = reference.lookup(array, ids, offsets, weights, fields.specs, fields.hash_spec, fields.width, mode)
    grad = torch.randn(want.shape, dtype=torch.float64).to(array.dtype)
    expected, error = gradient_bounds(grad, array, ids, offsets, weights, fields, mode)
    on_device = to_device(array, ids, offsets, weights, fields.specs)
    common = (*on_device, fields.hash_spec)
    # int64 slots are for arrays of 2**31 and more, which tests cannot hold; they must work for all.
    plan_of(on_device[-1], fields.hash_spec, on_device[0], fields.width).flags["NARROW"] &= not wide
    torch.use_deterministic_algorithms(True)  # with it torch fills memory with NaN: what is not written shows
    out = ops.lookup(*common, fields.width, mode)
    ordered = ops.lookup_backward_array(grad.to(DEVICE), *common, mode)
    torch.use_deterministic_algorithms(False)
    assert torch.equal(out.cpu(), want)
    for got in (ordered, ops.lookup_backward_array(grad.to(DEVICE), *common, mode)):
        assert got.dtype == array.dtype
        assert ((got.cpu().double() - expected).abs() <= error).all()
    if weights is not None:
        got = ops.lookup_backward_weights(grad.to(DEVICE), *common).cpu()
        exact = (t.double() for t in (grad, array))
        want = reference.lookup_backward_weights(*exact, ids, offsets, weights.double(), *common[4:])
        tolerance = {4: 1e-5, 8: 1e-13, 2: 2**-7}[array.itemsize]
        torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=40 * tolerance)


@settings(max_examples=EXAMPLES, deadline=None)
@given(lookups(), st.booleans())
def test_equals_the_reference(arguments, wide):
    check(*arguments, wide)


def check_quantized(arguments, dtype, wide=False):
    fields, mode = arguments[-2:]
    tensors, rest = quantized(*arguments, dtype), (fields.hash_spec, fields.width, mode, dtype)
    want = reference.lookup_quantized(*tensors, *rest)
    on_device = to_device(*tensors)
    plan_of(on_device[-1], fields.hash_spec, on_device[0], fields.width).flags["NARROW"] &= not wide
    torch.use_deterministic_algorithms(True)
    got = ops.lookup_quantized(*on_device, *rest)
    torch.use_deterministic_algorithms(False)
    assert got.dtype == dtype
    assert torch.equal(got.cpu(), want)


@settings(max_examples=EXAMPLES // 2, deadline=None)
@given(lookups(), st.sampled_from([torch.float32, torch.bfloat16, torch.float16]), st.booleans())
def test_int8_equals_the_reference(arguments, dtype, wide):
    check_quantized(arguments, dtype, wide)


def lookup_of(dims, z, num_slots, size, rows=None, padding=None, dtype=torch.float32, **options):
    tables = tuple(Table(str(i), rows, d, direct=rows is not None and i == 0) for i, d in enumerate(dims))
    layout = Layout(tables, num_slots, z, **options)
    ids = ints(-(2**63), 2**63 - 1, (size, len(dims))) if rows is None else ints(0, rows, (size, len(dims)))
    return torch.randn(num_slots).to(dtype), ids, None, None, Fields.of(layout, padding=padding), 0


@pytest.mark.parametrize(
    ("dims", "z", "num_slots"),
    [
        ([128] * 2, 128, 150),  # nearly every row wraps
        ([128] * 2, 8, 5000),
        ([128], 1, 997),
        ([200], 200, 211),  # more than one block of elements
        ([130, 1], 1, 500),
        ([8] * 2, 64, 70),  # rows share blocks
        ([3] * 3, 3, 3),  # the array is one block: pieces of four wrap twice
    ],
)
def test_shapes(dims, z, num_slots):
    check(*lookup_of(dims, z, num_slots, size=4))


@pytest.mark.parametrize(("dims", "z", "num_slots"), [([128] * 2, 128, 150), ([200], 200, 211), ([3] * 3, 3, 3)])
def test_shapes_of_int8(dims, z, num_slots):
    check_quantized(lookup_of(dims, z, num_slots, size=4), torch.bfloat16)


def test_tiles_go_on_over_samples_and_fields():
    """More rows than a tile, whose number the fields do not divide."""
    check(*lookup_of([16] * 5, 16, 1000, size=150, dtype=torch.bfloat16))
    check(*lookup_of([2, 1], 1, 300, size=600, rows=9, padding=[3, None]))


def test_deterministic_is_the_same_every_time(deterministic):
    """And independent of where in memory, and in which batch, gradients come first."""
    array, ids, _, _, fields, _ = lookup_of([8] * 3, 4, 60, size=30, rows=5)
    grad = torch.randn(30, fields.width)
    common = to_device(array, ids, None, None, fields.specs)
    first, second = (ops.lookup_backward_array(grad.to(DEVICE), *common, fields.hash_spec, 0) for _ in range(2))
    assert torch.equal(first, second)
    assert first.count_nonzero() > 50


def test_strided_arguments():
    array, ids, _, _, fields, _ = lookup_of([8] * 3, 4, 40, size=6)
    tail = (None, None, fields.specs.to(DEVICE), fields.hash_spec)
    array, ids = to_device(array, ids)
    want = ops.lookup(array, ids, *tail, fields.width, 0)
    strided, transposed = array.repeat_interleave(2)[::2], ids.t().contiguous().t()
    assert torch.equal(ops.lookup(strided, transposed, *tail, fields.width, 0), want)
    grad = torch.ones(1, 1, device=DEVICE).expand(6, fields.width)
    got = ops.lookup_backward_array(grad, strided, transposed, *tail, 0)
    assert torch.equal(got, ops.lookup_backward_array(grad.contiguous(), array, ids, *tail, 0))


@pytest.mark.skipif(DEVICE == "cuda", reason="a device-side assert would end this process's use of the GPU")
def test_a_wrong_id_reads_nothing_outside_the_array():
    """On a GPU it is an assert; whatever it is, the slots are those of id 0."""
    array, ids, _, _, fields, _ = lookup_of([4] * 2, 4, 40, size=2, rows=5)
    ids[0, 0], ids[1, 1] = 2**40, -1
    out = ops.lookup(array, ids, None, None, fields.specs, fields.hash_spec, fields.width, 0)
    want = reference.lookup(array, ids * 0, None, None, fields.specs, fields.hash_spec, fields.width, 0)
    assert torch.equal(out[0, :4], want[0, :4])
    assert torch.equal(out[1, 4:], want[1, 4:])
    for offsets in ([0, 9, 2, 2, 2], [0, -5, 1, 1, 2], [1, 1, 2, 2, 2]):
        bags = ops.lookup(
            array, ids[:, 1].clamp(min=0), torch.tensor(offsets), None, fields.specs, fields.hash_spec, fields.width, 0
        )
        assert bags.isfinite().all()


@pytest.mark.parametrize(("field", "value"), [("dim", 0), ("column", 14), ("column", -1), ("addend", 2**61 - 1)])
def test_numbers_that_do_not_fit_are_refused(field, value):
    array, ids, _, _, fields, _ = lookup_of([8], 4, 40, size=2)
    fields.specs[0, robe.layout.FieldSpec._fields.index(field)] = value
    with pytest.raises(ValueError, match="fields, spec: expected numbers that fit each other"):
        ops.lookup(array, ids, None, None, fields.specs, fields.hash_spec, fields.width, 0)


def test_an_array_smaller_than_its_spec_is_refused():
    array, ids, _, _, fields, _ = lookup_of([8], 4, 40, size=2)
    with pytest.raises(ValueError, match="fields, spec: expected numbers that fit each other"):
        ops.lookup(array[:39], ids, None, None, fields.specs, fields.hash_spec, fields.width, 0)


def test_fields_are_read_again_when_they_change():
    """The plan of a tensor of fields is kept, but not longer than its values."""
    array, ids, _, _, fields, _ = lookup_of([4] * 2, 4, 40, size=3, rows=5)
    arguments = (array, ids, None, None, fields.specs, fields.hash_spec, fields.width, 0)
    ops.lookup(*to_device(*arguments))
    specs = fields.specs.to(DEVICE)
    ops.lookup(*to_device(*arguments[:4]), specs, *arguments[5:])
    specs[1, robe.layout.FieldSpec._fields.index("addend")] += 12345
    got = ops.lookup(*to_device(*arguments[:4]), specs, *arguments[5:])
    assert torch.equal(got.cpu(), reference.lookup(*arguments[:4], specs.cpu(), *arguments[5:]))


def test_fields_are_read_once():
    """However compilers wrap the tensor; and plans of modules that are gone do not pile up."""
    array, _, _, _, fields, _ = to_device(*lookup_of([4] * 2, 4, 40, size=3, rows=5))
    specs = fields.specs.to(DEVICE)
    plan = plan_of(specs, fields.hash_spec, array, fields.width)
    for alias in (specs, specs.detach(), specs.view(-1).view(2, -1)):
        assert plan_of(alias, fields.hash_spec, array, fields.width) is plan
    assert plan_of(specs.clone(), fields.hash_spec, array, fields.width) is not plan
    kept = [specs.clone() for _ in range(plan_module.MAX_PLANS)]
    for other in kept:
        plan_of(other, fields.hash_spec, array, fields.width)
    assert len(plan_module._plans) == plan_module.MAX_PLANS
    assert plan_of(specs, fields.hash_spec, array, fields.width) is not plan
