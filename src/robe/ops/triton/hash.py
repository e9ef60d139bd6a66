"""The arithmetic of the hash on a GPU: the twin of src/robe/hashing.py, on unsigned 64-bit registers.

No 64-bit division: every remainder comes from one multiply-high by a number that ``robe.ops.triton.plan`` prepares.
With ratio = floor(a 2**64 / p), umulhi(x, ratio) is the quotient of a x / p or one less, for any x below 2**64, so that
one subtraction makes the remainder exact; p may be any modulus below 2**63.
"""

import triton
import triton.language as tl

# Sizes never make another variant of a kernel: Triton would compile anew for 1 and for multiples of 16.
SIZES = (
    "num_ids",
    "num_samples",
    "num_fields",
    "width",
    "segment",
    "num_pieces",
    "dim",
    "num_slots",
    "num_hashed",
)
kernel = triton.jit(do_not_specialize=SIZES)

# Where the numbers of a hash stand in the tensor of constants.
PRIME = tl.constexpr(0)
KEY, KEY_RATIO = tl.constexpr(1), tl.constexpr(2)
CHUNK, CHUNK_RATIO = tl.constexpr(3), tl.constexpr(4)
SIGN_KEY, SIGN_KEY_RATIO = tl.constexpr(5), tl.constexpr(6)
SIGN_ELEMENT, SIGN_ELEMENT_RATIO = tl.constexpr(7), tl.constexpr(8)
MODULUS, MODULUS_RATIO = tl.constexpr(9), tl.constexpr(10)
SLOTS, ZERO = tl.constexpr(11), tl.constexpr(12)

GOLDEN = tl.constexpr(0x9E37_79B9_7F4A_7C15)
MIX_1, MIX_2 = tl.constexpr(0xBF58_476D_1CE4_E5B9), tl.constexpr(0x94D0_49BB_1331_11EB)


@triton.jit
def constant(constants, POSITION: tl.constexpr):
    """One number of the hash, uint64."""
    return tl.load(constants + POSITION).to(tl.uint64)


@triton.jit
def divmod_by(x, divisor, ratio):
    """Quotient and remainder of uint64 ``x``; ratio = floor((2**64 - 1) / divisor)."""
    quotient = tl.umulhi(x, ratio)
    remainder = x - quotient * divisor
    over = remainder >= divisor
    return quotient + over.to(tl.uint64), tl.where(over, remainder - divisor, remainder)


@triton.jit
def mul_mod(x, factor, ratio, prime):
    """``factor x mod prime`` for any uint64 ``x``; ratio = floor(factor 2**64 / prime)."""
    remainder = x * factor - tl.umulhi(x, ratio) * prime
    return tl.where(remainder >= prime, remainder - prime, remainder)


@triton.jit
def add_mod(x, y, prime):
    """``(x + y) mod prime`` for ``x`` and ``y`` in [0, prime)."""
    total = x + y
    return tl.where(total >= prime, total - prime, total)


@triton.jit
def mix64(x):
    """The finalizer of splitmix64."""
    x = (x ^ (x >> 30)) * MIX_1
    x = (x ^ (x >> 27)) * MIX_2
    return x ^ (x >> 31)


@triton.jit
def hash_key(key, addend, constants, MIXED: tl.constexpr):
    """What does not depend on the chunk, uint64 of the shape of ``key``."""
    if MIXED:
        return mix64(key ^ addend)
    prime = constant(constants, PRIME)
    return add_mod(mul_mod(key, constant(constants, KEY), constant(constants, KEY_RATIO), prime), addend, prime)


@triton.jit
def chunk_start(hashed, chunk, constants, MIXED: tl.constexpr):
    """First slot of a chunk, uint64: formulas (1) to (6) of docs/robe.md.

    ``hashed`` comes from ``hash_key``; ``chunk`` broadcasts against it and has fewer elements, one row at best.
    """
    chunk = chunk.to(tl.uint64)
    if MIXED:
        value = mix64(hashed + chunk * GOLDEN) >> 3
    else:
        prime = constant(constants, PRIME)
        step = mul_mod(chunk, constant(constants, CHUNK), constant(constants, CHUNK_RATIO), prime)
        value = add_mod(hashed, step, prime)
    return divmod_by(value, constant(constants, MODULUS), constant(constants, MODULUS_RATIO))[1]


@triton.jit
def hash_sign_key(key, addend, constants, MIXED: tl.constexpr):
    """What does not depend on the element, for ``negative``."""
    if MIXED:
        return mix64(key ^ addend)
    prime = constant(constants, PRIME)
    factor, ratio = constant(constants, SIGN_KEY), constant(constants, SIGN_KEY_RATIO)
    return add_mod(mul_mod(key, factor, ratio, prime), addend, prime)


@triton.jit
def negative(hashed, element, constants, MIXED: tl.constexpr):
    """Whether the sign hash g of an element is -1: formula (7) of docs/robe.md."""
    element = element.to(tl.uint64)
    if MIXED:
        return (mix64(hashed + element * GOLDEN) >> 63) == 0
    prime = constant(constants, PRIME)
    step = mul_mod(element, constant(constants, SIGN_ELEMENT), constant(constants, SIGN_ELEMENT_RATIO), prime)
    return (add_mod(hashed, step, prime) & 1) == 0
