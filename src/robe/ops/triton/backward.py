"""Backward kernels: formulas (12) and (13).

The gradient of the array is a sum of pieces of rows (see ``robe.ops.triton.rows``), which overlap wherever rows share
slots. The fast way adds them atomically, in whatever order they come. The deterministic way writes them down with
their first slots, and ``robe.ops.triton.segments`` sums them in the order of a stable sort.
"""

import triton
import triton.language as tl

from robe.ops.triton.hash import ZERO, kernel
from robe.ops.triton.lookup import MAX, MEAN, exact_quotient, rows_of_tile
from robe.ops.triton.rows import DIRECT, bag_ids, bag_range, entry, kept, place, tile_slots, with_signs


@triton.jit
def emit(
    target,
    starts,
    value,
    start,
    slots,
    keep,
    row,
    first,
    element,
    dim,
    num_pieces,
    table,
    field,
    PIECES: tl.constexpr,
    PIECE: tl.constexpr,
    ANY_DIRECT: tl.constexpr,
):
    """Adds pieces [ROWS, PIECES, PIECE] to the array's gradient, ``target`` [m]; with ``starts``, writes them down.

    Then ``target`` is [rows, num_pieces, PIECE] and ``starts`` [rows, num_pieces] their first slots. Those of direct
    rows are moved up by PIECE, out of the reach of pieces that wrap.
    """
    if starts is None:
        tl.atomic_add(target + slots, value, keep[:, None, None] & (element < dim)[None, :, :], sem="relaxed")
    else:
        piece = tl.arange(0, PIECES)
        if ANY_DIRECT:
            start = tl.where((entry(table, field, DIRECT) != 0)[:, None], start + PIECE, start)
        to = row[:, None] * num_pieces + (first // PIECE + piece)[None, :]
        exists = keep[:, None] & (first + piece * PIECE < dim)[None, :]
        tl.store(starts + to, start, exists)
        tl.store(target + to[:, :, None] * PIECE + tl.arange(0, PIECE)[None, None, :], value, exists[:, :, None])


@kernel
def backward_kernel(
    grad,
    ids,
    table,
    constants,
    target,
    starts,
    num_samples: tl.int64,
    num_fields: tl.int32,
    width: tl.int64,
    segment: tl.int32,
    num_pieces: tl.int32,
    scale: tl.float64,
    ROWS: tl.constexpr,
    PIECES: tl.constexpr,
    PIECE: tl.constexpr,
    COMMON_DIM: tl.constexpr,
    ACCUMULATOR: tl.constexpr,
    MIXED: tl.constexpr,
    NARROW: tl.constexpr,
    GROUPED: tl.constexpr,
    SIGNED: tl.constexpr,
    ANY_DIRECT: tl.constexpr,
    BOUNDED: tl.constexpr,
    PADDED: tl.constexpr,
):
    """Gradient of the array times ``scale``, from one id per field and sample."""
    row, field, id, mask, to, dim = rows_of_tile(ids, table, num_samples, num_fields, width, ROWS, COMMON_DIM, BOUNDED)
    keep = mask & kept(id, table, field, PADDED)
    hashed, offset = place(id, table, field, constants, MIXED, GROUPED, ANY_DIRECT)
    # Hides from the compiler that rows are aligned: it would read several elements per thread at once, and then move
    # them all through shared memory to the threads that add them, one element each.
    to += tl.load(constants + ZERO)
    for first in range(0, dim, PIECES * PIECE):
        start, element, slots = tile_slots(
            hashed, offset, first, segment, table, field, constants, PIECES, PIECE, MIXED, NARROW, ANY_DIRECT
        )
        source = grad + to[:, None, None] + element[None, :, :]
        value = tl.load(source, keep[:, None, None] & (element < dim)[None, :, :], other=0).to(ACCUMULATOR)
        value *= tl.full([], scale, ACCUMULATOR)
        if SIGNED:
            value = with_signs(value, id, element, table, field, constants, MIXED, ANY_DIRECT)
        emit(
            target, starts, value, start, slots, keep, row, first, element, dim, num_pieces, table, field,
            PIECES, PIECE, ANY_DIRECT,
        )  # fmt: skip


@kernel
def backward_bags_kernel(
    grad,
    array,
    ids,
    offsets,
    weights,
    table,
    constants,
    target,
    starts,
    num_ids: tl.int64,
    num_samples: tl.int64,
    num_fields: tl.int32,
    width: tl.int64,
    segment: tl.int32,
    num_pieces: tl.int32,
    scale: tl.float64,
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
    """Gradient of the array times ``scale``, from bags."""
    field, begin, end, longest, mask, to, dim = bag_range(offsets, table, num_ids, num_samples, num_fields, width, ROWS)
    count = tl.zeros([ROWS], tl.int64)
    if MODE == MEAN:
        for turn in range(0, longest):
            count += bag_ids(ids, begin + turn, end, table, field, BOUNDED, PADDED)[1].to(tl.int64)
    for first in range(0, dim, PIECES * PIECE):
        element = first + tl.arange(0, PIECES)[:, None] * PIECE + tl.arange(0, PIECE)[None, :]
        exists = (element < dim)[None, :, :]
        source = grad + to[:, None, None] + element[None, :, :]
        upper = tl.load(source, mask[:, None, None] & exists, other=0).to(ACCUMULATOR) * tl.full([], scale, ACCUMULATOR)
        if MODE == MEAN:
            upper = exact_quotient(upper, tl.maximum(count, 1)[:, None, None], ACCUMULATOR)
        winner = tl.full([ROWS, PIECES, PIECE], -1, tl.int64)
        if MODE == MAX:
            best = tl.zeros([ROWS, PIECES, PIECE], ACCUMULATOR)
            for turn in range(0, longest):
                id, keep = bag_ids(ids, begin + turn, end, table, field, BOUNDED, PADDED)
                hashed, offset = place(id, table, field, constants, MIXED, GROUPED, ANY_DIRECT)
                _start, _element, slots = tile_slots(
                    hashed, offset, first, segment, table, field, constants, PIECES, PIECE, MIXED, NARROW, ANY_DIRECT
                )
                value = tl.load(array + slots, keep[:, None, None] & exists, other=0).to(ACCUMULATOR)
                if SIGNED:
                    value = with_signs(value, id, element, table, field, constants, MIXED, ANY_DIRECT)
                better = (winner < 0) | (value > best) | ((value != value) & (best == best))
                better &= keep[:, None, None]
                best = tl.where(better, value, best)
                winner = tl.where(better, turn, winner)
            winner = tl.where(best == best, winner, -1)  # nothing equals NaN
        for turn in range(0, longest):
            id, keep = bag_ids(ids, begin + turn, end, table, field, BOUNDED, PADDED)
            hashed, offset = place(id, table, field, constants, MIXED, GROUPED, ANY_DIRECT)
            start, _element, slots = tile_slots(
                hashed, offset, first, segment, table, field, constants, PIECES, PIECE, MIXED, NARROW, ANY_DIRECT
            )
            value = upper
            if weights is not None:
                value *= tl.load(weights + begin + turn, keep, other=0).to(ACCUMULATOR)[:, None, None]
            if MODE == MAX:
                value = tl.where(winner == turn, value, 0.0)
            if SIGNED:
                value = with_signs(value, id, element, table, field, constants, MIXED, ANY_DIRECT)
            emit(
                target, starts, value, start, slots, keep, begin + turn, first, element, dim, num_pieces, table, field,
                PIECES, PIECE, ANY_DIRECT,
            )  # fmt: skip


@kernel
def backward_weights_kernel(
    grad,
    array,
    ids,
    offsets,
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
    ACCUMULATOR: tl.constexpr,
    MIXED: tl.constexpr,
    NARROW: tl.constexpr,
    GROUPED: tl.constexpr,
    SIGNED: tl.constexpr,
    ANY_DIRECT: tl.constexpr,
    BOUNDED: tl.constexpr,
    PADDED: tl.constexpr,
):
    """Gradient of the weights of bags."""
    field, begin, end, longest, _mask, to, dim = bag_range(
        offsets, table, num_ids, num_samples, num_fields, width, ROWS
    )
    for turn in range(0, longest):
        id, keep = bag_ids(ids, begin + turn, end, table, field, BOUNDED, PADDED)
        hashed, offset = place(id, table, field, constants, MIXED, GROUPED, ANY_DIRECT)
        total = tl.zeros([ROWS], ACCUMULATOR)
        for first in range(0, dim, PIECES * PIECE):
            _start, element, slots = tile_slots(
                hashed, offset, first, segment, table, field, constants, PIECES, PIECE, MIXED, NARROW, ANY_DIRECT
            )
            exists = keep[:, None, None] & (element < dim)[None, :, :]
            value = tl.load(array + slots, exists, other=0).to(ACCUMULATOR)
            if SIGNED:
                value = with_signs(value, id, element, table, field, constants, MIXED, ANY_DIRECT)
            value *= tl.load(grad + to[:, None, None] + element[None, :, :], exists, other=0).to(ACCUMULATOR)
            total += tl.sum(tl.sum(value, 2), 1)
        tl.store(out + begin + turn, total.to(out.dtype.element_ty), begin + turn < end)


@kernel
def sum_kernel(
    total,
    values,
    starts,
    order,
    bounds,
    num_slots: tl.int64,
    num_hashed: tl.int64,
    PIECE: tl.constexpr,
    BLOCK: tl.constexpr,
    TURN: tl.constexpr,
    ACCUMULATOR: tl.constexpr,
):
    """Gradient of BLOCK slots: ``bounds`` says which of the sorted pieces may touch them, see segments.py."""
    tile = tl.program_id(0).to(tl.int64)
    slot = tile * BLOCK + tl.arange(0, BLOCK)
    result = tl.zeros([BLOCK], ACCUMULATOR)
    for wrap in tl.static_range(2):
        if wrap:
            position = tl.where(slot < num_hashed, slot + num_hashed, -1)
        else:
            position = tl.where(slot < num_hashed, slot, slot + PIECE)
        begin = tl.load(bounds + tile * 4 + wrap * 2)
        end = tl.load(bounds + tile * 4 + wrap * 2 + 1)
        for first in range(begin, end, TURN):
            number = first + tl.arange(0, TURN)
            start = tl.load(starts + number, number < end, other=0)
            source = tl.load(order + number, number < end, other=0)
            within = position[None, :] - start[:, None]
            covers = (number < end)[:, None] & (within >= 0) & (within < PIECE)
            result += tl.sum(tl.load(values + source[:, None] * PIECE + within, covers, other=0), 0)
    tl.store(total + slot, result, slot < num_slots)
