"""Forward kernels: one id per field and sample, and bags. Arguments as in ``robe.ops.contract`` and ``launch``."""

import triton
import triton.language as tl

from robe.ops.triton.hash import kernel
from robe.ops.triton.rows import (
    COLUMN,
    DIM,
    bag_ids,
    bag_range,
    checked,
    entry,
    kept,
    place,
    read,
    tile_slots,
    with_signs,
)

MEAN, MAX = tl.constexpr(1), tl.constexpr(2)  # robe.layout.Mode


@triton.jit
def rows_of_tile(
    ids,
    table,
    num_samples,
    num_fields,
    width,
    ROWS: tl.constexpr,
    COMMON_DIM: tl.constexpr,
    BOUNDED: tl.constexpr,
):
    """Field, id, whether there is one, first output element, and dim of the rows of this program.

    With a common dim a tile goes on from one sample to the next, and its rows lie side by side in memory. Otherwise it
    holds rows of one field, so that all have one dim.
    """
    tile = tl.program_id(0)
    lane = tl.arange(0, ROWS)
    if COMMON_DIM:
        row = tile.to(tl.int64) * ROWS + lane
        # Two 32-bit remainders instead of one of 64 bits, which is ten times their work.
        field = (tile % num_fields * ROWS + lane) % num_fields
        mask = row < num_samples.to(tl.int64) * num_fields
        to = row * COMMON_DIM
        dim = COMMON_DIM
    else:
        number = tile % num_fields
        field = number + lane * 0
        sample = (tile // num_fields).to(tl.int64) * ROWS + lane
        mask = sample < num_samples
        row = sample * num_fields + number
        to = sample * width + entry(table, number, COLUMN)
        dim = entry(table, number, DIM).to(tl.int32)
    id = tl.load(ids + row, mask, other=0)
    return row, field, checked(id, mask, table, field, BOUNDED), mask, to, dim


@kernel
def lookup_kernel(
    array,
    scales,
    ids,
    table,
    constants,
    out,
    num_samples: tl.int64,
    num_fields: tl.int32,
    width: tl.int64,
    segment: tl.int32,
    ROWS: tl.constexpr,
    PIECES: tl.constexpr,
    PIECE: tl.constexpr,
    COMMON_DIM: tl.constexpr,
    MIXED: tl.constexpr,
    NARROW: tl.constexpr,
    GROUPED: tl.constexpr,
    SIGNED: tl.constexpr,
    ANY_DIRECT: tl.constexpr,
    BOUNDED: tl.constexpr,
    PADDED: tl.constexpr,
    STREAM: tl.constexpr,
):
    """Formula (9)."""
    _row, field, id, mask, to, dim = rows_of_tile(ids, table, num_samples, num_fields, width, ROWS, COMMON_DIM, BOUNDED)
    keep = mask & kept(id, table, field, PADDED)
    hashed, offset = place(id, table, field, constants, MIXED, GROUPED, ANY_DIRECT)
    for first in range(0, dim, PIECES * PIECE):
        _start, element, slots = tile_slots(
            hashed, offset, first, segment, table, field, constants, PIECES, PIECE, MIXED, NARROW, ANY_DIRECT
        )
        exists = (element < dim)[None, :, :]
        value = read(array, scales, slots, keep[:, None, None] & exists)
        if SIGNED:
            value = with_signs(value, id, element, table, field, constants, MIXED, ANY_DIRECT)
        value = value.to(out.dtype.element_ty)
        target = out + to[:, None, None] + element[None, :, :]
        if STREAM:
            tl.store(target, value, mask[:, None, None] & exists, eviction_policy="evict_first")
        else:
            tl.store(target, value, mask[:, None, None] & exists)


@kernel
def lookup_bags_kernel(
    array,
    scales,
    ids,
    offsets,
    weights,
    table,
    constants,
    out,
    num_ids: tl.int64,
    num_samples: tl.int64,
    num_fields: tl.int32,
    width: tl.int64,
    segment: tl.int32,
    ROWS: tl.constexpr,
    PIECES: tl.constexpr,
    PIECE: tl.constexpr,
    MODE: tl.constexpr,
    ACCUMULATOR: tl.constexpr,
    MIXED: tl.constexpr,
    NARROW: tl.constexpr,
    GROUPED: tl.constexpr,
    SIGNED: tl.constexpr,
    ANY_DIRECT: tl.constexpr,
    BOUNDED: tl.constexpr,
    PADDED: tl.constexpr,
):
    """Formulas (10) and (11). A tile holds bags of one field; sums are made in the order of the ids."""
    field, begin, end, longest, mask, to, dim = bag_range(offsets, table, num_ids, num_samples, num_fields, width, ROWS)
    for first in range(0, dim, PIECES * PIECE):
        total = tl.full([ROWS, PIECES, PIECE], float("-inf") if MODE == MAX else 0.0, ACCUMULATOR)
        count = tl.zeros([ROWS], tl.int64)
        element = first + tl.arange(0, PIECES)[:, None] * PIECE + tl.arange(0, PIECE)[None, :]
        exists = (element < dim)[None, :, :]
        for turn in range(0, longest):
            id, keep = bag_ids(ids, begin + turn, end, table, field, BOUNDED, PADDED)
            hashed, offset = place(id, table, field, constants, MIXED, GROUPED, ANY_DIRECT)
            _start, _element, slots = tile_slots(
                hashed, offset, first, segment, table, field, constants, PIECES, PIECE, MIXED, NARROW, ANY_DIRECT
            )
            value = read(array, scales, slots, keep[:, None, None] & exists).to(ACCUMULATOR)
            if SIGNED:
                value = with_signs(value, id, element, table, field, constants, MIXED, ANY_DIRECT)
            if weights is not None:
                value *= tl.load(weights + begin + turn, keep, other=0).to(ACCUMULATOR)[:, None, None]
            if MODE == MAX:
                larger = tl.maximum(total, value, propagate_nan=tl.PropagateNan.ALL)
                total = tl.where(keep[:, None, None], larger, total)
            else:
                total += value
            count += keep.to(tl.int64)
        if MODE == MAX:
            total = tl.where((count == 0)[:, None, None], 0.0, total)
        if MODE == MEAN:
            total = exact_quotient(total, tl.maximum(count, 1)[:, None, None], ACCUMULATOR)
        target = out + to[:, None, None] + element[None, :, :]
        tl.store(target, total.to(out.dtype.element_ty), mask[:, None, None] & exists)


@triton.jit
def exact_quotient(x, count, ACCUMULATOR: tl.constexpr):
    """``x / count`` rounded to nearest; the ``/`` of float32 is not."""
    divisor = tl.broadcast_to(count.to(ACCUMULATOR), x.shape)
    return x / divisor if tl.float64 == ACCUMULATOR else tl.div_rn(x, divisor)
