"""The compiled kernels against the reference: bit for bit forward, to rounding backward."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import robe
from robe.functional import Fields
from robe.layout import Layout, Mode, Table
from robe.ops import native, reference
from robe.quantization import quantize_array

pytestmark = pytest.mark.skipif(native.library is None, reason=native.reason)

op = torch.ops.robe
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
HASHES = [
    robe.UniversalHash(3),
    robe.UniversalHash(1, prime=1000003),
    robe.UniversalHash(1, prime=2**59 - 55),
    robe.MixedHash(3),
    robe.ReleasedHash(3),
]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-13, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def ints(low: int, high: int, size: tuple[int, ...]) -> Tensor:
    return torch.randint(low, high, size, dtype=torch.int64)


@st.composite
def lookups(draw):
    """A layout, an array and the arguments of a lookup: single ids or bags, with padding, weights and direct tables."""
    dims = draw(st.lists(st.sampled_from([1, 2, 3, 4, 5, 8, 12, 16, 17, 32, 64]), min_size=1, max_size=4))
    hash = draw(st.sampled_from(HASHES))
    released = isinstance(hash, robe.ReleasedHash)
    z = draw(st.integers(1, max(dims)))
    if draw(st.booleans()):
        z = dims[0] * draw(st.integers(1, 4))
        dims = [dims[0]] * len(dims)
    if not released and any(z > d and z % d for d in dims):
        z = min(dims)
    tables = tuple(
        Table(
            str(i),
            None if not released and draw(st.integers(0, 3)) == 0 else draw(st.integers(1, 60)),
            d,
            table_id=draw(st.integers(0, 2**31 - 1)),
        )
        for i, d in enumerate(dims)
    )
    tables = tuple(
        Table(t.name, t.num_embeddings, t.embedding_dim, direct=t.num_embeddings is not None and draw(st.booleans()))
        for t in tables
    )
    direct = sum(t.full_parameters for t in tables if t.direct)
    num_slots = direct + z + draw(st.one_of(st.integers(0, 100), st.integers(0, 300_000)))
    layout = Layout(tables, num_slots, z, hash, use_sign=not released and draw(st.booleans()))
    size = draw(st.sampled_from([0, 1, 2, 5, 33]))
    torch.manual_seed(draw(st.integers(0, 2**31)))

    def ids_of(t: Table, count: int) -> Tensor:
        if t.num_embeddings is None:
            return ints(-(2**63), 2**63 - 1, (count,))
        return ints(0, t.num_embeddings, (count,))

    dtype = draw(st.sampled_from(DTYPES))
    array = torch.randn(num_slots, dtype=torch.float64).to(dtype)
    padding = [draw(st.sampled_from([None, 0])) for _ in tables]
    fields = Fields.of(layout, padding=padding)
    if draw(st.booleans()):
        ids = torch.stack([ids_of(t, size) for t in tables], 1)
        return array, ids, None, None, fields, Mode.SUM
    lengths = ints(0, draw(st.sampled_from([2, 4, 40])), (len(tables), size))
    ids = torch.cat([ids_of(t, int(n)) for t, n in zip(tables, lengths.sum(1), strict=True)])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.flatten().cumsum(0)])
    mode = draw(st.sampled_from(list(Mode)))
    weights = torch.randn(ids.shape).to(dtype) if mode == Mode.SUM and draw(st.booleans()) else None
    return array, ids, offsets, weights, fields, mode


def check_against_reference(array, ids, offsets, weights, fields, mode):
    common = (ids, offsets, weights, fields.specs, fields.hash_spec)
    out = op.lookup(array, *common, fields.width, mode)
    assert torch.equal(out, reference.lookup(array, *common, fields.width, mode))
    grad = torch.randn(out.shape, dtype=torch.float64).to(array.dtype)
    tolerance = TOLERANCE[array.dtype]
    exact = [None if t is None else t.double() for t in (grad, array, weights)]
    got = op.lookup_backward_array(grad, array, *common, mode).double()
    want = reference.lookup_backward_array(exact[0], exact[1], ids, offsets, exact[2], *common[3:], mode)
    # Rounding is relative to the terms of a sum, which may cancel: the sum of their sizes bounds it.
    sizes = [None if t is None else t.abs() for t in exact]
    unsigned = [*fields.hash_spec[:-1], 0]
    terms = reference.lookup_backward_array(
        sizes[0], exact[1], ids, offsets, sizes[2], fields.specs, unsigned, Mode.SUM if mode == Mode.MAX else mode
    )
    # Below the smallest normal number rounding is absolute: half the spacing of subnormal numbers.
    finfo = torch.finfo(array.dtype)
    assert ((got - want).abs() <= tolerance * terms + finfo.smallest_normal * finfo.eps / 2).all()
    if weights is not None:
        got = op.lookup_backward_weights(grad, array, *common)
        want = reference.lookup_backward_weights(exact[0], exact[1], ids, offsets, exact[2], *common[3:])
        torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=40 * tolerance)


@settings(max_examples=150, deadline=None)
@given(lookups())
def test_equals_the_reference(arguments):
    check_against_reference(*arguments)


@settings(max_examples=100, deadline=None)
@given(lookups(), st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_int8_equals_the_reference(arguments, dtype):
    check_int8_against_reference(*arguments, dtype)


def check_int8_against_reference(array, ids, offsets, weights, fields, mode, dtype):
    slots, scales = quantize_array(array)
    weights = None if weights is None else weights.to(dtype)
    common = (slots, scales, ids, offsets, weights, fields.specs, fields.hash_spec, fields.width, mode, dtype)
    want = reference.lookup_quantized(*common)
    assert torch.equal(op.lookup_quantized(*common), want)
    if offsets is None:
        assert torch.equal(fields.prepared(slots, dtype).lookup(slots, ids, scales), want)


def big_lookup(z=16, dim=16, num_slots=100_003, size=3000, tables=5, **layout):
    made = Layout(tuple(Table(str(i), None, dim) for i in range(tables)), num_slots, z, **layout)
    ids = ints(-(2**63), 2**63 - 1, (size, tables))
    ids[: size // 2] = ints(0, 7, (size // 2, tables))  # a few slots get many gradients
    return torch.randn(num_slots), ids, None, None, Fields.of(made), Mode.SUM


@pytest.mark.parametrize("dim", [16, 128, 40])
@pytest.mark.parametrize("z", [1, 2, 8, 16, 64, 640])
def test_many_rows(z, dim):
    if z > dim and z % dim:
        z = dim
    check_against_reference(*big_lookup(z, dim, size=700))
    check_int8_against_reference(*big_lookup(z, dim, size=700), torch.bfloat16)


def test_streaming_stores():
    """Outputs above half the last cache are written around it; not a sample may be lost between pieces."""
    array, ids, _, _, fields, _ = big_lookup(size=60_000, tables=26)
    out = op.lookup(array, ids, None, None, fields.specs, fields.hash_spec, fields.width, 0)
    assert out.nbytes > 2**26
    for rows in (slice(0, 50), slice(31_000, 31_050), slice(-50, None)):
        want = reference.lookup(array, ids[rows], None, None, fields.specs, fields.hash_spec, fields.width, 0)
        assert torch.equal(out[rows], want)


@pytest.mark.parametrize("num_slots", [640, 5003, 1_000_003])
@pytest.mark.parametrize("z", [1, 16])
def test_backward_is_bitwise_the_same_for_any_number_of_threads(z, num_slots):
    array, ids, _, _, fields, _ = big_lookup(z, num_slots=num_slots)
    grad = torch.randn(ids.shape[0], fields.width)
    results, before = [], torch.get_num_threads()
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        results.append(op.lookup_backward_array(grad, array, ids, None, None, fields.specs, fields.hash_spec, 0))
    torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])
    assert results[0].count_nonzero() > 0


@pytest.mark.parametrize("isa", ["generic", "avx2"])
def test_other_instruction_sets(isa):
    """The same tests in a process whose kernels are limited to an older instruction set."""
    if f", {isa}" in native.reason:
        pytest.skip(f"{isa} is what this process runs on")
    selected = "equals_the_reference or many_rows or streaming or any_number_of_threads or results_and_gradients"
    files = [__file__, str(Path(__file__).with_name("test_attention.py"))]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files, "-k", selected],
        env={**os.environ, "ROBE_ISA": isa},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_reference_can_be_asked_for():
    code = "import robe; print([s for s in robe.ops.status() if s['device'] == 'cpu'][0])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "ROBE_KERNELS": "reference"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "'kernel': 'reference'" in done.stdout
    assert "ROBE_KERNELS=reference asks for it" in done.stdout


def test_an_unknown_choice_is_refused():
    done = subprocess.run(
        [sys.executable, "-c", "import robe.ops"],
        env={**os.environ, "ROBE_KERNELS": "natve"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0
    assert "ROBE_KERNELS: unknown 'natve'; did you mean 'native'?" in done.stderr


def test_status_names_the_kernel():
    status = {(s["op"], s["device"]): s for s in robe.ops.status()}
    assert status["robe::lookup", "cpu"]["kernel"] == "native"
    assert "compiled kernels" in status["robe::lookup", "cpu"]["reason"]


@pytest.mark.parametrize(
    ("field", "value"), [("dim", 0), ("column", 14), ("column", -1), ("addend", -1), ("addend", 2**61 - 1)]
)
def test_numbers_that_do_not_fit_are_refused(field, value):
    array, ids, _, _, fields, _ = big_lookup(size=4, tables=1)
    specs = fields.specs.clone()
    specs[0, robe.layout.FieldSpec._fields.index(field)] = value
    with pytest.raises(ValueError, match="fields, spec: expected numbers that fit each other"):
        op.lookup(array, ids, None, None, specs, fields.hash_spec, fields.width, 0)


def test_an_array_smaller_than_its_spec_is_refused():
    array, ids, _, _, fields, _ = big_lookup(size=4, tables=1)
    with pytest.raises(ValueError, match="fields, spec: expected numbers that fit each other"):
        op.lookup(array[:1000], ids, None, None, fields.specs, fields.hash_spec, fields.width, 0)


def test_a_direct_table_behind_the_array_is_refused():
    layout = Layout((Table("a", 10, 4, direct=True),), 40, 4)
    fields = Fields.of(layout)
    ids = torch.tensor([[9]])
    op.lookup(torch.zeros(40), ids, None, None, fields.specs, fields.hash_spec, 4, 0)
    with pytest.raises(ValueError, match="fields, spec: expected numbers that fit each other"):
        op.lookup(torch.zeros(39), ids, None, None, fields.specs, fields.hash_spec, 4, 0)


def test_views_that_are_not_contiguous():
    array, ids, _, _, fields, _ = big_lookup(size=50)
    tail = (None, None, fields.specs, fields.hash_spec)
    strided, transposed = array.repeat_interleave(2)[::2], ids.t().contiguous().t()
    want = op.lookup(array, ids, *tail, fields.width, 0)
    assert torch.equal(op.lookup(strided, transposed, *tail, fields.width, 0), want)
    grad = torch.randn(fields.width, 50).t()
    got = op.lookup_backward_array(grad, strided, transposed, *tail, 0)
    assert torch.equal(got, op.lookup_backward_array(grad.contiguous(), array, ids, *tail, 0))


def test_every_half_precision_value_survives():
    """All 65,536 patterns through a weighted bag: widening and rounding as torch does it."""
    for dtype in (torch.float16, torch.bfloat16):
        array = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
        layout = Layout((Table("a", 2**16, 1, direct=True),), 2**16, 1)
        fields = Fields.of(layout)
        ids = torch.arange(2**16)
        weights = torch.full((2**16,), 1.25, dtype=dtype)
        common = (ids, torch.arange(2**16 + 1), weights, fields.specs, fields.hash_spec)
        got, want = op.lookup(array, *common, 1, 0), reference.lookup(array, *common, 1, 0)
        assert torch.equal(got.isnan(), want.isnan())
        assert torch.equal(got.nan_to_num(nan=0.0), want.nan_to_num(nan=0.0))
