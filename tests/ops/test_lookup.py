"""The lookup op against dense tables: every element read through ``Layout.slots``, pooled by torch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import robe
from robe.functional import Fields, robe_lookup
from robe.hashing import signs
from robe.jagged import Jagged
from robe.layout import Layout, Table

HASHES = [robe.UniversalHash(5), robe.UniversalHash(1, prime=1000003), robe.MixedHash(5), robe.ReleasedHash(5)]
MODES = ["sum", "mean", "max"]


def make_layout(hash=HASHES[0], use_sign=False, block_size=4, num_slots=101) -> Layout:
    """Tables of three dims, one of them direct, with short last chunks and wraps."""
    tables = (Table("a", 50, 4), Table("b", 30, 6), Table("c", 3, 4, direct=True), Table("d", 9, 6))
    return Layout(tables, num_slots, block_size, hash, use_sign)


def dense(layout: Layout, table: int, array: Tensor) -> Tensor:
    """The full table as a differentiable function of the array."""
    t = layout.tables[table]
    ids = torch.arange(t.num_embeddings)
    weight = array[layout.slots(table, ids)]
    if layout.use_sign and not t.direct:
        spec = layout.hash_spec()
        weight = weight * signs(ids, layout.hash.sign_addend(layout.table_id(table)), t.embedding_dim, spec)
    return weight


def dense_lookup(layout, ids, array, mode) -> Tensor:
    columns = []
    for f in range(len(layout.tables)):
        weight = dense(layout, f, array)
        if isinstance(ids, Jagged):
            values, offsets, weights = ids.field(f)
            columns.append(
                torch.nn.functional.embedding_bag(
                    values, weight, offsets, mode=mode, per_sample_weights=weights, include_last_offset=True
                )
            )
        else:
            columns.append(weight[ids[:, f]])
    return torch.cat(columns, 1)


def single_ids(layout, size) -> Tensor:
    return torch.stack([torch.randint(0, t.num_embeddings, (size,)) for t in layout.tables], 1)


def bags(layout, size, longest=4, weights: torch.dtype | None = None) -> Jagged:
    lengths = torch.randint(0, longest + 1, (len(layout.tables), size))
    values = [torch.randint(0, t.num_embeddings, (int(n),)) for t, n in zip(layout.tables, lengths.sum(1), strict=True)]
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.flatten().cumsum(0)])
    total = torch.cat(values)
    w = None if weights is None else torch.rand(total.shape, dtype=weights).requires_grad_()
    return Jagged(total, offsets, len(layout.tables), w)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("use_sign", [False, True])
@pytest.mark.parametrize("hash", HASHES, ids=lambda h: h.form)
@pytest.mark.parametrize("size", [0, 1, 7])
def test_single_ids(hash, use_sign, size):
    if use_sign and isinstance(hash, robe.ReleasedHash):
        pytest.skip("the released hash has no sign hash")
    layout = make_layout(hash, use_sign)
    array = torch.randn(layout.num_slots, requires_grad=True)
    ids = single_ids(layout, size)
    out = robe_lookup(ids, array, Fields.of(layout))
    expected = dense_lookup(layout, ids, array, "sum")
    assert torch.equal(out, expected)
    grad = torch.randn_like(out)
    (got,) = torch.autograd.grad(out, array, grad)
    (want,) = torch.autograd.grad(expected, array, grad)
    torch.testing.assert_close(got, want)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("use_sign", [False, True])
@pytest.mark.parametrize("size", [0, 1, 7])
def test_bags(mode, use_sign, size):
    layout = make_layout(use_sign=use_sign)
    array = torch.randn(layout.num_slots, dtype=torch.float64, requires_grad=True)
    ids = bags(layout, size)
    out = robe_lookup(ids, array, Fields.of(layout), mode)
    expected = dense_lookup(layout, ids, array, mode)
    torch.testing.assert_close(out, expected)
    grad = torch.randn_like(out)
    (got,) = torch.autograd.grad(out, array, grad)
    (want,) = torch.autograd.grad(expected, array, grad)
    torch.testing.assert_close(got, want)


def test_weights_and_their_gradient():
    layout = make_layout(use_sign=True)
    array = torch.randn(layout.num_slots, dtype=torch.float64, requires_grad=True)
    ids = bags(layout, 9, weights=torch.float64)
    out = robe_lookup(ids, array, Fields.of(layout))
    expected = dense_lookup(layout, ids, array, "sum")
    torch.testing.assert_close(out, expected)
    grad = torch.randn_like(out)
    for got, want in zip(
        torch.autograd.grad(out, (array, ids.weights), grad),
        torch.autograd.grad(expected, (array, ids.weights), grad),
        strict=True,
    ):
        torch.testing.assert_close(got, want)


@settings(max_examples=60, deadline=None)
@given(
    dims=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    z=st.integers(1, 9),
    size=st.integers(0, 5),
    extra=st.integers(0, 50),
    mode=st.sampled_from(MODES),
    hash=st.sampled_from(HASHES[:3]),
    seed=st.integers(0, 1000),
)
def test_any_shape(dims, z, size, extra, mode, hash, seed):
    torch.manual_seed(seed)
    z = min(z, *dims)
    tables = tuple(Table(str(i), 5 + i, d, direct=i == 2) for i, d in enumerate(dims))
    direct = sum(t.full_parameters for t in tables if t.direct)
    layout = Layout(tables, direct + z + extra, z, hash)
    array = torch.randn(layout.num_slots, dtype=torch.float64, requires_grad=True)
    ids = bags(layout, size)
    out, expected = robe_lookup(ids, array, Fields.of(layout), mode), dense_lookup(layout, ids, array, mode)
    torch.testing.assert_close(out, expected)
    if out.numel():
        grad = torch.randn_like(out)
        got, want = (torch.autograd.grad(y, array, grad)[0] for y in (out, expected))
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("z", [1, 3, 4, 8, 16, 32])
def test_blocks_shorter_and_longer_than_the_embedding(z):
    layout = Layout((Table("a", 40, 8), Table("b", 40, 8)), 67, z)
    array = torch.randn(67)
    ids = single_ids(layout, 20)
    assert torch.equal(robe_lookup(ids, array, Fields.of(layout)), dense_lookup(layout, ids, array, "sum"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_accumulate_in_float32(dtype):
    """A half-precision result is the rounded float32 one, forward and backward."""
    layout = make_layout()
    exact = torch.randn(layout.num_slots).to(dtype)
    array = exact.clone().requires_grad_()
    ids = bags(layout, 50, longest=40)
    out = robe_lookup(ids, array, Fields.of(layout), "mean")
    assert out.dtype == dtype
    wide = exact.to(torch.float64 if dtype == torch.float64 else torch.float32).requires_grad_()
    expected = robe_lookup(ids, wide, Fields.of(layout), "mean")
    assert torch.equal(out, expected.to(dtype))
    grad = torch.randn(out.shape).to(dtype)
    (got,) = torch.autograd.grad(out, array, grad)
    (want,) = torch.autograd.grad(expected, wide, grad.to(wide.dtype))
    assert got.dtype == dtype
    assert torch.equal(got, want.to(dtype))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("use_sign", [False, True])
def test_gradcheck(mode, use_sign):
    layout = make_layout(use_sign=use_sign, num_slots=31)
    array = torch.randn(31, dtype=torch.float64, requires_grad=True)
    ids = bags(layout, 3, weights=torch.float64 if mode == "sum" else None)
    inputs = [array] if ids.weights is None else [array, ids.weights]

    def run(array: Tensor, weights: Tensor | None = None) -> Tensor:
        return robe_lookup(Jagged(ids.values, ids.offsets, ids.num_fields, weights), array, Fields.of(layout), mode)

    assert torch.autograd.gradcheck(run, inputs)
    single = single_ids(layout, 4)
    assert torch.autograd.gradcheck(lambda a: robe_lookup(single, a, Fields.of(layout)), [array])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("mode", [0, 1, 2])
def test_opcheck(mode):
    layout = make_layout(use_sign=True)
    fields = Fields.of(layout)
    array = torch.randn(layout.num_slots, requires_grad=True)
    tail = (fields.specs, fields.hash_spec)
    ids = bags(layout, 3, weights=torch.float32 if mode == 0 else None)
    op = torch.ops.robe
    torch.library.opcheck(op.lookup, (array, ids.values, ids.offsets, ids.weights, *tail, fields.width, mode))
    torch.library.opcheck(op.lookup, (array, single_ids(layout, 3), None, None, *tail, fields.width, 0))
    grad = torch.randn(3, fields.width)
    common = (grad, array.detach(), ids.values, ids.offsets, None, *tail)
    torch.library.opcheck(op.lookup_backward_array, (*common, mode))
    weights = torch.rand(ids.values.shape)
    common = (grad, array.detach(), ids.values, ids.offsets, weights, *tail)
    torch.library.opcheck(op.lookup_backward_weights, common)


@pytest.mark.parametrize("jagged", [False, True])
def test_compile_fullgraph_equals_eager(jagged):
    layout = make_layout(use_sign=True)
    fields = Fields.of(layout)

    def run(array: Tensor, ids: Tensor, offsets: Tensor | None) -> Tensor:
        batch = ids if offsets is None else Jagged(ids, offsets, 4)
        return robe_lookup(batch, array, fields).sin()

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=True)
    for size in (3, 8):
        array = torch.randn(layout.num_slots, requires_grad=True)
        batch = bags(layout, size)
        args = (batch.values, batch.offsets) if jagged else (single_ids(layout, size), None)
        got, want = compiled(array, *args), run(array, *args)
        assert torch.equal(got, want)
        (a,), (b,) = (torch.autograd.grad(y.sum(), array) for y in (got, want))
        assert torch.equal(a, b)


def test_nothing_but_ids_is_kept_for_the_backward():
    layout = Layout((Table("a", 1000, 64),), 500, 1)
    array = torch.randn(500, requires_grad=True)
    ids = torch.randint(0, 1000, (256, 1))
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t.nbytes), t)[1], lambda t: t):
        robe_lookup(ids, array, Fields.of(layout))
    assert sum(sizes) == array.nbytes + ids.nbytes + Fields.of(layout).specs.nbytes  # slots alone would take 131,072


def test_backward_is_the_same_whatever_the_number_of_threads():
    layout = make_layout()
    ids, grad = single_ids(layout, 5000), torch.randn(5000, 20)
    results = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        array = torch.zeros(layout.num_slots, requires_grad=True)
        robe_lookup(ids, array, Fields.of(layout)).backward(grad)
        results.append(array.grad)
    torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_padding_gives_zeros_and_no_gradient():
    layout = Layout((Table("a", 10, 4), Table("b", 10, 4)), 33, 2)
    fields = Fields.of(layout, padding=[3, None])
    array = torch.randn(33, requires_grad=True)
    ids = torch.tensor([[3, 3], [1, 1]])
    out = robe_lookup(ids, array, fields)
    assert torch.equal(out[0, :4], torch.zeros(4))
    assert torch.equal(out[0, 4:], array[layout.slots("b", torch.tensor(3))])
    (grad,) = torch.autograd.grad(out[0, :4].sum(), array)
    assert torch.equal(grad, torch.zeros(33))


@pytest.mark.parametrize("mode", MODES)
def test_padding_in_bags_is_not_counted(mode):
    layout = Layout((Table("a", 10, 4),), 33, 2)
    array = torch.randn(33, dtype=torch.float64, requires_grad=True)
    ids = Jagged.from_lists([[[3, 1, 2]], [[3, 3]], [[]], [[4]]])
    out = robe_lookup(ids, array, Fields.of(layout, padding=[3]), mode)
    weight = dense(layout, 0, array)
    expected = torch.nn.functional.embedding_bag(
        ids.values, weight, ids.offsets, mode=mode, padding_idx=3, include_last_offset=True
    )
    torch.testing.assert_close(out, expected)
    grad = torch.randn_like(out)
    torch.testing.assert_close(torch.autograd.grad(out, array, grad)[0], torch.autograd.grad(expected, array, grad)[0])


@pytest.mark.parametrize("bad", [-1, 30, 2**63 - 1])
def test_ids_outside_their_table(bad):
    layout = make_layout()
    ids = single_ids(layout, 3)
    ids[2, 1] = bad
    array = torch.zeros(layout.num_slots)
    with pytest.raises(IndexError, match=rf"expected ids in \[0, 30\), got {bad} at position \[2, 1\]"):
        robe_lookup(ids, array, Fields.of(layout))


def test_any_int64_without_num_embeddings():
    layout = Layout((Table("a", None, 4),), 33, 2)
    array = torch.randn(33)
    ids = torch.tensor([[-1], [2**63 - 1], [-(2**63)], [0]])
    out = robe_lookup(ids, array, Fields.of(layout))
    assert torch.equal(out, array[layout.slots("a", ids.squeeze(1))])


@pytest.mark.parametrize("offsets", [[0, 2, 1, 3], [1, 2, 3, 3], [0, 1, 2, 2], [0, 1, 2, 4]])
def test_bad_offsets(offsets):
    layout = Layout((Table("a", 10, 4),), 33, 2)
    ids = Jagged(torch.tensor([1, 2, 3]), torch.tensor(offsets), 1)
    with pytest.raises(ValueError, match="offsets: expected to start at 0, never fall, and end at 3"):
        robe_lookup(ids, torch.zeros(33), Fields.of(layout))


@pytest.mark.parametrize(
    ("ids", "array", "mode", "error", "message"),
    [
        (torch.zeros(2, 1), torch.zeros(33), "sum", TypeError, "ids: expected dtype torch.int64 or torch.int32, got"),
        (torch.zeros(2, 3).long(), torch.zeros(33), "sum", ValueError, r"ids: expected shape \[B, 1\], got \(2, 3\)"),
        (torch.zeros(2, 1).long(), torch.zeros(32), "sum", ValueError, r"array: expected shape \[33\] .* got \(32,\)"),
        (torch.zeros(2, 1).long(), torch.zeros(33).int(), "sum", TypeError, "array: expected dtype"),
        (torch.zeros(2, 1).long(), torch.zeros(33, device="meta"), "sum", ValueError, "ids is on cpu, array on meta"),
        (torch.zeros(2, 1).long(), torch.zeros(33), "avg", ValueError, "mode: unknown 'avg'"),
        (Jagged.from_lists([[[1], [2]]]), torch.zeros(33), "sum", ValueError, "expected bags of 1 fields, got 2"),
    ],
)
def test_bad_arguments(ids, array, mode, error, message):
    layout = Layout((Table("a", 10, 4),), 33, 2)
    with pytest.raises(error, match=message):
        robe_lookup(ids, array, Fields.of(layout), mode)


def test_weights_need_sum():
    layout = Layout((Table("a", 10, 4),), 33, 2)
    ids = Jagged(torch.tensor([1]), torch.tensor([0, 1]), 1, torch.ones(1))
    with pytest.raises(NotImplementedError, match="only mode='sum' takes weights"):
        robe_lookup(ids, torch.zeros(33), Fields.of(layout), "mean")
