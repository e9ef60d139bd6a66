"""Rows of a tile: their ids, checked, and the slots of their elements.

A tile is ROWS x PIECES x PIECE elements. A piece is a power of two elements that lie within one chunk, so that
one hash serves it: the largest power of two that divides Z, or the whole row where there is one chunk.
"""

import triton
import triton.language as tl

from robe.ops.triton.hash import (
    SLOTS,
    ZERO,
    chunk_start,
    constant,
    divmod_by,
    hash_key,
    hash_sign_key,
    negative,
)
from robe.quantization import GROUP_SHIFT

THREADS = tl.constexpr(256)  # of a program, at most
SCALE_SHIFT = tl.constexpr(GROUP_SHIFT)

# Columns of the table of fields: robe.layout.FieldSpec, then what ``robe.ops.triton.plan`` adds.
DIRECT, ADDEND, SIGN_ADDEND = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
DIM, LIMIT, BASE, COLUMN = tl.constexpr(3), tl.constexpr(4), tl.constexpr(5), tl.constexpr(6)
HAS_PADDING, PADDING = tl.constexpr(7), tl.constexpr(8)
GROUP, GROUP_RATIO = tl.constexpr(9), tl.constexpr(10)
ENTRY = tl.constexpr(11)  # columns


@triton.jit
def entry(table, field, POSITION: tl.constexpr):
    """One number of each field, int64."""
    return tl.load(table + field * ENTRY + POSITION)


@triton.jit
def checked(ids, mask, table, field, BOUNDED: tl.constexpr):
    """Ids, after a device-side assert that they are within their tables; those that are not become 0."""
    if BOUNDED:
        limit = entry(table, field, LIMIT)
        inside = (limit < 0) | ((ids >= 0) & (ids < limit))
        tl.device_assert(inside | ~mask, "ids: index out of range")
        ids = tl.where(inside, ids, 0)
    return ids


@triton.jit
def kept(ids, table, field, PADDED: tl.constexpr):
    """False for padding."""
    keep = ids == ids
    if PADDED:
        keep = (entry(table, field, HAS_PADDING) == 0) | (ids != entry(table, field, PADDING))
    return keep


@triton.jit
def place(ids, table, field, constants, MIXED: tl.constexpr, GROUPED: tl.constexpr, ANY_DIRECT: tl.constexpr):
    """What ``slots`` needs of each id: the hash of its key, uint64 [ROWS], and an offset, int64 [ROWS].

    The offset is that of the row within its block, or the first slot of a direct row.
    """
    key = ids.to(tl.uint64)
    offset = ids * 0
    if GROUPED:
        group, ratio = entry(table, field, GROUP).to(tl.uint64), entry(table, field, GROUP_RATIO).to(tl.uint64)
        key, row = divmod_by(key, group, ratio)
        offset = row.to(tl.int64) * entry(table, field, DIM)
    hashed = hash_key(key, entry(table, field, ADDEND).to(tl.uint64), constants, MIXED)
    if ANY_DIRECT:
        direct = entry(table, field, BASE) + ids * entry(table, field, DIM)
        offset = tl.where(entry(table, field, DIRECT) != 0, direct, offset)
    return hashed, offset


@triton.jit
def zeros_from_memory(constants, ROWS: tl.constexpr, PIECES: tl.constexpr):
    """Zeros, int64 [ROWS, PIECES], of which the compiler does not know that they are.

    It would rather hash again in every thread that reads an element of a piece than hash once and share the result:
    two to four times the instructions of the whole lookup. Loads by all threads of a program are what it does not
    repeat.
    """
    SPREAD: tl.constexpr = THREADS // (ROWS * PIECES) if ROWS * PIECES < THREADS else 1
    return tl.max(tl.load(constants + ZERO + tl.zeros([ROWS, PIECES, SPREAD], tl.int32)), 2)


@triton.jit
def tile_slots(
    hashed,
    offset,
    first,
    segment,
    table,
    field,
    constants,
    PIECES: tl.constexpr,
    PIECE: tl.constexpr,
    MIXED: tl.constexpr,
    NARROW: tl.constexpr,
    ANY_DIRECT: tl.constexpr,
):
    """Where elements ``first`` and following of each row lie.

    Returns:
        The first slot of each piece, int64 [ROWS, PIECES]; the elements, int32 [PIECES, PIECE]; and their slots, int64
        (int32 if NARROW) [ROWS, PIECES, PIECE], wrapped around the end of the hashed part of the array.
    """
    piece = first + tl.arange(0, PIECES) * PIECE
    chunk = piece // segment
    start = chunk_start(hashed[:, None], chunk[None, :], constants, MIXED).to(tl.int64)
    start += offset[:, None] + (piece - chunk * segment)[None, :]
    end = constant(constants, SLOTS).to(tl.int64)
    wraps = start >= end
    if ANY_DIRECT:
        hashes = (entry(table, field, DIRECT) == 0)[:, None]
        start = tl.where(hashes, start, offset[:, None] + piece[None, :])
        wraps &= hashes
    start = tl.where(wraps, start - end, start) + zeros_from_memory(constants, start.shape[0], PIECES)
    slots = start.to(tl.int32) if NARROW else start
    end = end.to(slots.dtype)
    within = tl.arange(0, PIECE)
    slots = slots[:, :, None] + within[None, None, :]
    wraps = slots >= end
    if ANY_DIRECT:
        wraps &= hashes[:, :, None]
    slots = tl.where(wraps, slots - end, slots)
    # A hint by which the lanes of a warp take neighbouring elements; the wrap hides from the compiler that they mostly
    # are neighbours in memory. It never widens a load: first slots have no alignment.
    slots = tl.max_contiguous(slots, [1, 1, PIECE])
    return start, piece[:, None] + within[None, :], slots


@triton.jit
def read(array, scales, slots, mask):
    """Elements at ``slots``, 0 where masked; with ``scales`` those of an int8 array in float32: formula (15)."""
    value = tl.load(array + slots, mask, other=0)
    if scales is not None:
        # The hint of tile_slots again, without which a warp reads scales of different rows. In 64 bits, for with
        # 32 the compiler computes slots twice, in two layouts, 1,232 instructions instead of 984 for D = Z = 128.
        group = tl.max_contiguous(slots.to(tl.int64) >> SCALE_SHIFT, [1, 1, slots.shape[2]])
        value = value.to(tl.float32) * tl.load(scales + group, mask, other=0)
    return value


@triton.jit
def with_signs(value, ids, element, table, field, constants, MIXED: tl.constexpr, ANY_DIRECT: tl.constexpr):
    """Values [ROWS, PIECES, PIECE] times the sign hash of each id and element; direct rows have none."""
    hashed = hash_sign_key(ids.to(tl.uint64), entry(table, field, SIGN_ADDEND).to(tl.uint64), constants, MIXED)
    minus = negative(hashed[:, None, None], element[None, :, :], constants, MIXED)
    if ANY_DIRECT:
        minus &= (entry(table, field, DIRECT) == 0)[:, None, None]
    # Through float32, which is exact: not every GPU (nor the interpreter) has arithmetic in bfloat16.
    wide = value.to(tl.float32) if value.dtype.primitive_bitwidth < 32 else value
    return tl.where(minus, -wide, wide).to(value.dtype)


@triton.jit
def bag_range(offsets, table, num_ids, num_samples, num_fields, width, ROWS: tl.constexpr):
    """Field, bounds, largest length, whether there is one, first output element, and dim of the bags of this program.

    A device-side assert says that the bounds are in order; whatever they are, ids are read from their tensor only.
    """
    tile = tl.program_id(0)
    number = tile % num_fields
    lane = tl.arange(0, ROWS)
    sample = (tile // num_fields).to(tl.int64) * ROWS + lane
    mask = sample < num_samples
    bag = number.to(tl.int64) * num_samples + sample
    begin = tl.load(offsets + bag, mask, other=0)
    end = tl.load(offsets + bag + 1, mask, other=0)
    last = num_samples.to(tl.int64) * num_fields - 1
    fine = (begin >= 0) & (begin <= end) & (end <= num_ids)
    fine &= ((bag != 0) | (begin == 0)) & ((bag != last) | (end == num_ids))
    tl.device_assert(fine | ~mask, "offsets: expected to start at 0, never fall, and end at the number of ids")
    begin = tl.where(fine, begin, 0)
    end = tl.where(fine, end, 0)
    to = sample * width + entry(table, number, COLUMN)
    dim = entry(table, number, DIM).to(tl.int32)
    return number + lane * 0, begin, end, tl.max(end - begin, 0), mask, to, dim


@triton.jit
def bag_ids(ids, position, end, table, field, BOUNDED: tl.constexpr, PADDED: tl.constexpr):
    """The ids at ``position`` of each bag, and whether they count: there is one, and it is not padding."""
    live = position < end
    id = checked(tl.load(ids + position, live, other=0), live, table, field, BOUNDED)
    return id, live & kept(id, table, field, PADDED)
