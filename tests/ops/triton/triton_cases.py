"""Small lookups of every kind, and the comparison with the reference."""

import torch
from hypothesis import strategies as st
from torch import Tensor

import robe
from robe.functional import Fields
from robe.layout import Layout, Mode, Table
from robe.ops import reference
from robe.quantization import quantize_array

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# On a GPU every kind of kernel is compiled first, for about a second.
EXAMPLES = 12 if DEVICE == "cuda" else 45
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-13, torch.bfloat16: 2**-7, torch.float16: 2**-10}
HASHES = [
    robe.UniversalHash(3),
    robe.UniversalHash(3),
    robe.UniversalHash(1, prime=1000003),
    robe.UniversalHash(1, prime=2**59 - 55),
    robe.MixedHash(3),
    robe.ReleasedHash(3),
]


def ints(low: int, high: int, size: tuple[int, ...]) -> Tensor:
    return torch.randint(low, high, size, dtype=torch.int64)


@st.composite
def lookups(draw):
    """Array, ids, offsets, weights, fields and mode: single ids or bags, with padding, weights and direct tables."""
    dims = draw(st.lists(st.sampled_from([1, 2, 3, 4, 8, 16, 17, 33]), min_size=1, max_size=3))
    hash = draw(st.sampled_from(HASHES))
    released = isinstance(hash, robe.ReleasedHash)
    if draw(st.booleans()):
        dims = [dims[0]] * len(dims)
    z = draw(st.sampled_from([1, 2, 3, 4, 8, 16, min(dims), max(dims), dims[0] * 4]))
    if not released and any(z > d and z % d for d in dims):
        z = min(dims)
    tables = []
    for i, dim in enumerate(dims):
        rows = None if not released and draw(st.booleans()) else draw(st.integers(1, 60))
        direct = rows is not None and draw(st.integers(0, 2)) == 0
        tables.append(Table(str(i), rows, dim, direct=direct, table_id=4 * draw(st.integers(0, 2**29 - 1)) + i))
    direct_slots = sum(t.full_parameters for t in tables if t.direct)
    num_slots = direct_slots + z + draw(st.one_of(st.integers(0, 30), st.integers(0, 300_000)))
    layout = Layout(tuple(tables), num_slots, z, hash, use_sign=not released and draw(st.booleans()))
    torch.manual_seed(draw(st.integers(0, 2**31)))

    def ids_of(t: Table, count: int) -> Tensor:
        return ints(-(2**63), 2**63 - 1, (count,)) if t.num_embeddings is None else ints(0, t.num_embeddings, (count,))

    dtype = draw(st.sampled_from(DTYPES))
    array = torch.randn(num_slots, dtype=torch.float64).to(dtype)
    fields = Fields.of(layout, padding=[draw(st.sampled_from([None, 0])) for _ in tables])
    size = draw(st.sampled_from([0, 1, 3, 7]))
    if draw(st.booleans()):
        return array, torch.stack([ids_of(t, size) for t in tables], 1), None, None, fields, Mode.SUM
    lengths = ints(0, draw(st.sampled_from([2, 5])), (len(tables), size))
    ids = torch.cat([ids_of(t, int(n)) for t, n in zip(tables, lengths.sum(1), strict=True)])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.flatten().cumsum(0)])
    mode = draw(st.sampled_from(list(Mode)))
    weights = torch.randn(ids.shape).to(dtype) if mode == Mode.SUM and draw(st.booleans()) else None
    return array, ids, offsets, weights, fields, mode


def quantized(array, ids, offsets, weights, fields, mode, dtype):
    """The arguments of ``robe::lookup_quantized`` but for numbers of the fields."""
    slots, scales = quantize_array(array)
    return slots, scales, ids, offsets, None if weights is None else weights.to(dtype), fields.specs


def to_device(*values):
    """Tensors on the device of the kernels; everything else as it is."""
    return tuple(v.to(DEVICE) if isinstance(v, Tensor) else v for v in values)


def gradient_bounds(grad, array, ids, offsets, weights, fields, mode):
    """The gradient of the array in float64, and how far one in the array's dtype may be off.

    Rounding is relative to the terms of a sum, which may cancel: the sum of their sizes bounds it. Below the smallest
    normal number it is absolute.
    """
    exact = [None if t is None else t.double() for t in (grad, array, weights)]
    sizes = [None if t is None else t.abs() for t in exact]
    want = reference.lookup_backward_array(
        exact[0], exact[1], ids, offsets, exact[2], fields.specs, fields.hash_spec, mode
    )
    terms = reference.lookup_backward_array(
        sizes[0], exact[1], ids, offsets, sizes[2], fields.specs, [*fields.hash_spec[:-1], 0],
        Mode.SUM if mode == Mode.MAX else mode,
    )  # fmt: skip
    limits = torch.finfo(array.dtype)
    return want, TOLERANCE[array.dtype] * terms + limits.smallest_normal * limits.eps / 2
