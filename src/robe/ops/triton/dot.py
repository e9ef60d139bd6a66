"""Lookup and DLRM's dot interaction in one: a program holds the vectors of a sample, which never reach memory."""

import triton
import triton.language as tl

from robe.ops.triton.hash import kernel
from robe.ops.triton.rows import checked, kept, place, tile_slots, with_signs


@triton.jit
def ids_of_sample(
    ids, table, sample, num_fields, GROUPS: tl.constexpr, HAS_DENSE: tl.constexpr, BOUNDED: tl.constexpr,
    PADDED: tl.constexpr,
):  # fmt: skip
    """Field and id of each vector, and whether it is a looked-up row that counts; vector 0 may be the dense one."""
    group = tl.arange(0, GROUPS)
    number = group - 1 if HAS_DENSE else group
    mask = (number >= 0) & (number < num_fields)
    field = tl.where(mask, number, 0)
    id = checked(tl.load(ids + sample * num_fields + field, mask, other=0), mask, table, field, BOUNDED)
    return field, id, mask, mask & kept(id, table, field, PADDED)


@triton.jit
def vectors_of_sample(
    array,
    dense,
    id,
    keep,
    hashed,
    offset,
    sample,
    first,
    dim,
    segment,
    table,
    field,
    constants,
    GROUPS: tl.constexpr,
    PIECES: tl.constexpr,
    PIECE: tl.constexpr,
    MIXED: tl.constexpr,
    NARROW: tl.constexpr,
    SIGNED: tl.constexpr,
    ANY_DIRECT: tl.constexpr,
):
    """Elements ``first`` and following of a sample's vectors, [GROUPS, PIECES * PIECE]."""
    _start, element, slots = tile_slots(
        hashed, offset, first, segment, table, field, constants, PIECES, PIECE, MIXED, NARROW, ANY_DIRECT
    )
    exists = (element < dim)[None, :, :]
    vectors = tl.load(array + slots, keep[:, None, None] & exists, other=0)
    if SIGNED:
        vectors = with_signs(vectors, id, element, table, field, constants, MIXED, ANY_DIRECT)
    if dense is not None:
        is_dense = (tl.arange(0, GROUPS) == 0)[:, None, None]
        vector = tl.load(dense + sample * dim + element[None, :, :] + slots * 0, is_dense & exists, other=0)
        vectors = tl.where(is_dense, vector, vectors)
    return tl.reshape(vectors, [GROUPS, PIECES * PIECE])


@kernel
def dot_kernel(
    array,
    dense,
    ids,
    table,
    constants,
    out,
    num_fields: tl.int32,
    dim: tl.int32,
    segment: tl.int32,
    GROUPS: tl.constexpr,
    PIECES: tl.constexpr,
    PIECE: tl.constexpr,
    PRECISION: tl.constexpr,
    MIXED: tl.constexpr,
    NARROW: tl.constexpr,
    GROUPED: tl.constexpr,
    SIGNED: tl.constexpr,
    ANY_DIRECT: tl.constexpr,
    BOUNDED: tl.constexpr,
    PADDED: tl.constexpr,
):
    """The dense vector, if there is one, and the dot products of all pairs of vectors."""
    sample = tl.program_id(0).to(tl.int64)
    HAS_DENSE: tl.constexpr = dense is not None
    field, id, _mask, keep = ids_of_sample(ids, table, sample, num_fields, GROUPS, HAS_DENSE, BOUNDED, PADDED)
    hashed, offset = place(id, table, field, constants, MIXED, GROUPED, ANY_DIRECT)
    count = num_fields + 1 if HAS_DENSE else num_fields
    front = dim if HAS_DENSE else 0
    to = out + sample * (front + count * (count - 1) // 2)
    products = tl.zeros([GROUPS, GROUPS], tl.float32)
    for first in range(0, dim, PIECES * PIECE):
        vectors = vectors_of_sample(
            array, dense, id, keep, hashed, offset, sample, first, dim, segment, table, field, constants,
            GROUPS, PIECES, PIECE, MIXED, NARROW, SIGNED, ANY_DIRECT,
        )  # fmt: skip
        products = tl.dot(vectors, tl.trans(vectors), products, input_precision=PRECISION)
        if HAS_DENSE:
            element = first + tl.arange(0, PIECES * PIECE)
            tl.store(to + element, tl.load(dense + sample * dim + element, element < dim), element < dim)
    i = tl.arange(0, GROUPS)[:, None]
    j = tl.arange(0, GROUPS)[None, :]
    tl.store(to + front + i * (i - 1) // 2 + j, products.to(out.dtype.element_ty), (j < i) & (i < count))


@kernel
def dot_backward_kernel(
    grad,
    array,
    dense,
    ids,
    table,
    constants,
    grad_dense,
    grad_rows,
    num_fields: tl.int32,
    dim: tl.int32,
    segment: tl.int32,
    GROUPS: tl.constexpr,
    PIECES: tl.constexpr,
    PIECE: tl.constexpr,
    PRECISION: tl.constexpr,
    MIXED: tl.constexpr,
    NARROW: tl.constexpr,
    GROUPED: tl.constexpr,
    SIGNED: tl.constexpr,
    ANY_DIRECT: tl.constexpr,
    BOUNDED: tl.constexpr,
    PADDED: tl.constexpr,
):
    """Gradients of the dense vector and of the embeddings: each the others, weighted by their products' gradients."""
    sample = tl.program_id(0).to(tl.int64)
    HAS_DENSE: tl.constexpr = dense is not None
    field, id, mask, keep = ids_of_sample(ids, table, sample, num_fields, GROUPS, HAS_DENSE, BOUNDED, PADDED)
    hashed, offset = place(id, table, field, constants, MIXED, GROUPED, ANY_DIRECT)
    count = num_fields + 1 if HAS_DENSE else num_fields
    front = dim if HAS_DENSE else 0
    source = grad + sample * (front + count * (count - 1) // 2)
    i = tl.arange(0, GROUPS)[:, None]
    j = tl.arange(0, GROUPS)[None, :]
    high, low = tl.maximum(i, j), tl.minimum(i, j)
    pairs = tl.load(source + front + high * (high - 1) // 2 + low, (high != low) & (high < count), other=0)
    group = tl.arange(0, GROUPS)[:, None]
    for first in range(0, dim, PIECES * PIECE):
        vectors = vectors_of_sample(
            array, dense, id, keep, hashed, offset, sample, first, dim, segment, table, field, constants,
            GROUPS, PIECES, PIECE, MIXED, NARROW, SIGNED, ANY_DIRECT,
        )  # fmt: skip
        sums = tl.dot(pairs.to(vectors.dtype), vectors, input_precision=PRECISION)
        element = first + tl.arange(0, PIECES * PIECE)[None, :]
        exists = element < dim
        if HAS_DENSE:
            is_dense = (group == 0) & exists
            direct = tl.load(source + element + group * 0, is_dense, other=0).to(tl.float32)
            to = grad_dense + sample * dim + element + group * 0
            tl.store(to, (sums + direct).to(grad_dense.dtype.element_ty), is_dense)
        to = grad_rows + (sample * num_fields + field)[:, None] * dim + element
        tl.store(to, sums.to(grad_rows.dtype.element_ty), mask[:, None] & exists)
