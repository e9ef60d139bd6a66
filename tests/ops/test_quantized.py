"""Int8 slots and their lookup, against the array that they stand for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import robe
from robe.functional import Fields, robe_embedding_bag, robe_lookup, robe_lookup_dot
from robe.jagged import Jagged
from robe.layout import Layout, Table
from robe.quantization import GROUP, num_scales, quantize_array

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
TABLES = (Table("a", 50, 4), Table("b", 30, 6), Table("c", 3, 4, direct=True), Table("d", 9, 6))
op = torch.ops.robe


def dequantized(array, scales):
    return array.float() * scales.repeat_interleave(GROUP)[: len(array)]


def make(num_slots=131, **options):
    layout = Layout(TABLES, num_slots, 4, **options)
    array, scales = quantize_array(torch.randn(num_slots))
    return array, scales, Fields.of(layout, padding=[None, 3, None, None])


def single_ids(size=20):
    return torch.stack([torch.randint(0, t.num_embeddings, (size,)) for t in TABLES], 1)


def bags(dtype=None, size=7):
    lengths = torch.randint(0, 4, (len(TABLES), size))
    values = torch.cat(
        [torch.randint(0, t.num_embeddings, (int(n),)) for t, n in zip(TABLES, lengths.sum(1), strict=True)]
    )
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.flatten().cumsum(0)])
    return Jagged(values, offsets, len(TABLES), None if dtype is None else torch.randn(values.shape).to(dtype))


@settings(max_examples=60, deadline=None)
@given(
    slots=st.integers(1, 300),
    exponent=st.integers(-60, 60),
    dtype=st.sampled_from([*DTYPES, torch.float64]),
    seed=st.integers(0, 1000),
)
def test_a_slot_is_off_by_at_most_half_its_scale(slots, exponent, dtype, seed):
    torch.manual_seed(seed)
    if dtype == torch.float16:
        exponent = exponent % 20 - 10
    exact = (torch.randn(slots, dtype=torch.float64) * 2.0**exponent).to(dtype)
    array, scales = quantize_array(exact)
    assert (array.dtype, scales.dtype) == (torch.int8, torch.float32)
    assert array.shape == (slots,)
    assert scales.shape == (num_scales(slots),)
    assert array.abs().amax() == 127  # the largest slot of a group
    error = (dequantized(array, scales).double() - exact.double()).abs()
    assert (error <= scales.repeat_interleave(GROUP)[:slots].double() * (0.5 + 1e-4)).all()


def test_a_group_of_zeros_stays_so():
    exact = torch.zeros(3 * GROUP)
    exact[GROUP] = 1.0
    array, scales = quantize_array(exact)
    assert scales.tolist() == [0.0, pytest.approx(1 / 127), 0.0]
    torch.testing.assert_close(dequantized(array, scales), exact)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_has_no_scale_is_refused(bad):
    exact = torch.randn(200)
    exact[150] = bad
    with pytest.raises(ValueError, match="array: expected finite slots"):
        quantize_array(exact)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hash", [robe.UniversalHash(5), robe.MixedHash(5)])
@pytest.mark.parametrize("mode", ["single", "sum", "mean", "max", "weights"])
def test_equals_the_lookup_of_the_array_it_stands_for(mode, hash, dtype):
    """In float32, and rounded once."""
    array, scales, fields = make(hash=hash, use_sign=True)
    ids = single_ids() if mode == "single" else bags(dtype if mode == "weights" else None)
    pooling = mode if mode in ("mean", "max") else "sum"
    got = robe_lookup(ids, array, fields, pooling, scales=scales, dtype=dtype)
    if mode == "weights":
        ids = Jagged(ids.values, ids.offsets, ids.num_fields, ids.weights.float())
    want = robe_lookup(ids, dequantized(array, scales), fields, pooling)
    assert got.dtype == dtype
    assert torch.equal(got, want.to(dtype))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(dtype):
    array, scales, fields = make(use_sign=True)
    tail, jagged = (fields.specs, fields.hash_spec, fields.width), bags(dtype)
    torch.library.opcheck(op.lookup_quantized, (array, scales, single_ids(), None, None, *tail, 0, dtype))
    common = (array, scales, jagged.values, jagged.offsets)
    torch.library.opcheck(op.lookup_quantized, (*common, jagged.weights, *tail, 0, dtype))
    torch.library.opcheck(op.lookup_quantized, (*common, None, *tail, 2, dtype))


@pytest.mark.parametrize("jagged", [False, True])
def test_compile_fullgraph_equals_eager(jagged):
    array, scales, fields = make()

    def run(ids, offsets):
        batch = ids if offsets is None else Jagged(ids, offsets, 4)
        return robe_lookup(batch, array, fields, scales=scales, dtype=torch.bfloat16).sin()

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=True)
    for size in (3, 8):
        batch = bags(size=size)
        arguments = (batch.values, batch.offsets) if jagged else (single_ids(size), None)
        assert torch.equal(compiled(*arguments), run(*arguments))


def test_there_is_no_gradient():
    array, scales, fields = make()
    ids = bags(torch.float32)
    ids.weights.requires_grad_()
    with pytest.raises(RuntimeError, match="a lookup of int8 slots has no gradient"):
        robe_lookup(ids, array, fields, scales=scales).sum().backward()
    with pytest.raises(RuntimeError, match="a lookup of int8 slots has no gradient"):
        robe_lookup(single_ids(), array, fields, scales=scales.clone().requires_grad_()).sum().backward()


def test_ids_outside_their_table():
    array, scales, fields = make()
    ids = single_ids()
    ids[2, 1] = 30
    with pytest.raises(IndexError, match=r"expected ids in \[0, 30\), got 30 at position \[2, 1\]"):
        robe_lookup(ids, array, fields, scales=scales)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"scales": torch.ones(2)}, ValueError, r"scales: expected shape \[3\], one for every 64 slots, got \(2,\)"),
        ({"scales": torch.ones(3).double()}, TypeError, "scales: expected dtype torch.float32"),
        ({"scales": torch.ones(3, device="meta")}, ValueError, "scales is on meta, array on cpu"),
        ({"scales": None}, TypeError, "array: expected dtype torch.float32 or .* got torch.int8"),
        ({"array": torch.zeros(131)}, TypeError, "array: expected dtype torch.int8, got torch.float32"),
        ({"dtype": torch.float64}, TypeError, "dtype: expected torch.float32 or torch.bfloat16 or torch.float16"),
    ],
)
def test_bad_arguments(change, error, message):
    array, scales, fields = make()
    arguments = {"array": array, "scales": scales, "dtype": None, **change}
    with pytest.raises(error, match=message):
        robe_lookup(single_ids(), arguments.pop("array"), fields, **arguments)


def test_the_op_checks_what_it_reads():
    array, scales, fields = make()
    with pytest.raises(ValueError, match=r"scales: expected shape \[3\]"):
        op.lookup_quantized(
            array, scales[:2], single_ids(), None, None, fields.specs, fields.hash_spec, fields.width, 0, torch.float32
        )


def test_weights_have_the_dtype_of_the_embeddings():
    layout = Layout((Table("a", 10, 4),), 40, 4)
    array, scales = quantize_array(torch.randn(40))
    weights = torch.ones(3, dtype=torch.bfloat16)
    arguments = {"offsets": torch.tensor([0, 1]), "mode": "sum", "per_sample_weights": weights, "scales": scales}
    ids, fields = torch.tensor([1, 2, 3]), Fields.of(layout)
    with pytest.raises(TypeError, match=r"per_sample_weights: expected dtype torch.float32, got torch.bfloat16"):
        robe_embedding_bag(ids, array, fields, **arguments)
    out = robe_embedding_bag(ids, array, fields, dtype=torch.bfloat16, **arguments)
    assert out.dtype == torch.bfloat16


def test_the_fused_interaction_takes_no_int8():
    layout = Layout((Table("a", 10, 4), Table("b", 10, 4)), 40, 4)
    with pytest.raises(TypeError, match="array: expected dtype"):
        robe_lookup_dot(torch.zeros(1, 2).long(), None, torch.zeros(40, dtype=torch.int8), Fields.of(layout))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_embeddings_of_another_dtype_than_the_array(dtype):
    """A cast, through which gradients come back."""
    layout = Layout((Table("a", 10, 4),), 40, 4)
    array = torch.randn(40, dtype=torch.bfloat16, requires_grad=True)
    ids, fields = torch.tensor([[1], [2]]), Fields.of(layout)
    out = robe_lookup(ids, array, fields, dtype=dtype)
    assert torch.equal(out, robe_lookup(ids, array, fields).to(dtype))
    out.sum().backward()
    assert array.grad.dtype == torch.bfloat16
    assert array.grad.sum() == 8
    with pytest.raises(TypeError, match=r"dtype: expected torch.float32 or .* got torch.int32"):
        robe_lookup(ids, array, fields, dtype=torch.int32)
