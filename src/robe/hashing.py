"""Where an embedding lives in the array: the hash forms and their exact int64 arithmetic.

This file is the specification. Every kernel, on every device, agrees with it bit for bit, and a saved model
depends on it, so nothing here may change once released. Formula numbers are those of docs/robe.md.

The hash forms below are descriptions: they turn a seed into numbers. ``place`` and ``signs`` turn these numbers
and ids into slots and signs, and are what the kernels implement.

Ids are int64 and stand for their two's complement residue: id -1 is 2**64 - 1. No intermediate is ever
negative where a remainder is taken, because torch floors and C and Triton truncate.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

MERSENNE_61 = 2**61 - 1
RELEASED_PRIME = 2038074743
MAX_PRIME = 2**61 - 1
LOW_31 = 2**31 - 1
LOW_30 = 2**30 - 1


class HashSpec(NamedTuple):
    """What kernels need to know of the hash: the op's ``spec`` argument, in this order."""

    form: int  # UNIVERSAL, RELEASED or MIXED
    prime: int  # P
    key_multiplier: int  # B
    chunk_multiplier: int  # C
    sign_key_multiplier: int  # B_g
    sign_element_multiplier: int  # C_g
    block_size: int  # Z
    num_slots: int  # m, slots of the hashed part of the array
    use_sign: int  # 1: multiply by the sign hash g


UNIVERSAL, RELEASED, MIXED = 0, 1, 2


def unsigned_mod(x: Tensor, modulus: int) -> Tensor:
    """``x mod modulus`` with int64 ``x`` read as an unsigned 64-bit number; ``modulus`` in [1, 2**62)."""
    return unsigned_divmod(x, modulus)[1]


def unsigned_divmod(x: Tensor, divisor: int) -> tuple[Tensor, Tensor]:
    """Quotient (a two's complement pattern) and remainder of int64 ``x`` read as unsigned 64-bit.

    Args:
        x: int64, any shape.
        divisor: in [1, 2**62).
    """
    if divisor == 1:
        return x, torch.zeros_like(x)
    half = (x >> 1) & 0x7FFF_FFFF_FFFF_FFFF  # x // 2 without the sign bit, so that // sees a non-negative number
    quotient = (half // divisor) << 1
    remainder = x - quotient * divisor  # in [0, 2 * divisor)
    over = remainder >= divisor
    return quotient + over, torch.where(over, remainder - divisor, remainder)


def mul_mod(x: Tensor, a: int, prime: int) -> Tensor:
    """``a * x mod prime``, exact, for ``x`` and ``a`` in [0, prime) and ``prime`` up to 2**61 - 1."""
    if prime == MERSENNE_61:
        return _mul_mod_mersenne(x, a)
    # Take x in limbs small enough for (limb * coefficient) to stay below 2**62.
    width = 62 - prime.bit_length()
    total = torch.zeros_like(x)
    for shift in range(0, prime.bit_length(), width):
        limb = (x >> shift) & ((1 << width) - 1)
        total = (total + limb * ((a << shift) % prime) % prime) % prime
    return total


def _mul_mod_mersenne(x: Tensor, a: int) -> Tensor:
    """``a * x mod 2**61 - 1`` from four 31-bit products, using 2**61 = 1 and 2**62 = 2 (mod P)."""
    a1, a0 = a >> 31, a & LOW_31
    x1, x0 = x >> 31, x & LOW_31
    middle = x0 * a1 + x1 * a0  # < 2**62
    total = (
        _fold61(x0 * a0)  # < 2**61 + 2
        + ((x1 * a1) << 1)  # x1 * a1 < 2**60, times 2**62 = 2
        + (middle >> 30)  # times 2**61 = 1
        + ((middle & LOW_30) << 31)
    )  # < 2**63
    return _reduce61(total)


def _fold61(x: Tensor) -> Tensor:
    """Congruent to ``x`` modulo 2**61 - 1 and at most 2**61 + 2, for non-negative ``x``."""
    return (x & MERSENNE_61) + (x >> 61)


def _reduce61(x: Tensor) -> Tensor:
    """``x mod 2**61 - 1`` for ``x`` in [0, 2**63)."""
    folded = _fold61(x)
    return torch.where(folded >= MERSENNE_61, folded - MERSENNE_61, folded)


def _residue(ids: Tensor, prime: int) -> Tensor:
    """Ids modulo ``prime``, read as unsigned 64-bit."""
    if prime == MERSENNE_61:
        return _reduce61((ids & MERSENNE_61) + ((ids >> 61) & 7))
    return unsigned_mod(ids, prime)


def _add_mod(x: Tensor, y: Tensor | int, prime: int) -> Tensor:
    total = x + y
    return torch.where(total >= prime, total - prime, total)


def _digest_int(text: str) -> int:
    """A 256-bit number from ``text``: the one rule by which seeds become constants."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")


def _require_seed(seed: int) -> None:
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise TypeError(f"seed: expected an int, got {seed!r}")


def _require_coefficients(name: str, coefficients: tuple[int, ...], prime: int) -> None:
    if len(coefficients) != 4 or not all(isinstance(c, int) for c in coefficients):
        raise ValueError(f"{name}: expected four ints (A, B, C, D), got {coefficients!r}")
    if not all(0 <= c < prime for c in coefficients):
        raise ValueError(f"{name}: expected values in [0, prime) with prime={prime}, got {coefficients}")


def _is_prime(n: int) -> bool:
    """Miller-Rabin with bases that decide every n below 3.3e24."""
    if n < 2:
        return False
    bases = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
    for p in bases:
        if n % p == 0:
            return n == p
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in bases:
        x = pow(base, odd, n)
        if x in (1, n - 1):
            continue
        if not any((x := x * x % n) == n - 1 for _ in range(twos - 1)):
            return False
    return True


@dataclass(frozen=True)
class UniversalHash:
    """Equation 5 of the paper, formula (1) of docs/robe.md: ``((A e + B k + C c + D) mod P) mod m``.

    Args:
        seed: where the coefficients come from, by SHA-256 of seed and name, when none are given.
        prime: P, at most 2**61 - 1, the default. All products are exact.
        coefficients: (A, B, C, D) by hand, each in [0, P).
        sign_coefficients: the same for the sign hash g of equation 2; from the seed when None.

    Raises:
        TypeError: the seed is not an int.
        ValueError: ``prime`` is not a prime in range, or a coefficient is outside [0, P).
    """

    form: ClassVar[str] = "universal"

    seed: int = 0
    prime: int = MERSENNE_61
    coefficients: tuple[int, int, int, int] = field(default=(), kw_only=True)  # type: ignore[assignment]
    sign_coefficients: tuple[int, int, int, int] = field(default=(), kw_only=True)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        _require_seed(self.seed)
        if not isinstance(self.prime, int) or not 2 <= self.prime <= MAX_PRIME or not _is_prime(self.prime):
            raise ValueError(f"prime: expected a prime of at most 2**61 - 1, got {self.prime!r}")
        for name, label in (("coefficients", ""), ("sign_coefficients", "sign ")):
            given = tuple(getattr(self, name)) or self._from_seed(label)
            _require_coefficients(name, given, self.prime)
            object.__setattr__(self, name, given)

    def _from_seed(self, label: str) -> tuple[int, ...]:
        # A, B, C in [1, P), D in [0, P), as below equation 5.
        draws = [_digest_int(f"robe universal {label}{name} {self.seed}") for name in "ABCD"]
        return (*(1 + d % (self.prime - 1) for d in draws[:3]), draws[3] % self.prime)

    def addend(self, table: int, row_offset: int) -> int:
        """``(A e + D) mod P``."""
        a, _, _, d = self.coefficients
        return (a * table + d) % self.prime

    def sign_addend(self, table: int) -> int:
        """``(A_g e + D_g) mod P``."""
        a, _, _, d = self.sign_coefficients
        return (a * table + d) % self.prime

    def to_dict(self) -> dict[str, Any]:
        """Everything that defines this hash, as JSON-able values."""
        return {
            "form": self.form,
            "seed": self.seed,
            "prime": self.prime,
            "coefficients": list(self.coefficients),
            "sign_coefficients": list(self.sign_coefficients),
        }

    def spec(self, block_size: int, num_slots: int, use_sign: bool) -> HashSpec:
        """The numbers that kernels need beside the addends."""
        _, b, c, _ = self.coefficients
        _, sign_b, sign_c, _ = self.sign_coefficients
        return HashSpec(UNIVERSAL, self.prime, b, c, sign_b, sign_c, block_size, num_slots, int(use_sign))


@dataclass(frozen=True)
class ReleasedHash:
    """The authors' published code, bit for bit: formula (5) of docs/robe.md.

    It differs from the paper: the table enters as an offset of rows (so every table needs ``num_embeddings``),
    blocks do not wrap, Z > D shortens the range without grouping rows, and there is no sign hash.

    Args:
        seed: of numpy's RandomState, 1024 in the authors' runs.
    """

    form: ClassVar[str] = "released"

    seed: int = 1024

    def __post_init__(self) -> None:
        _require_seed(self.seed)
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed: numpy's RandomState takes 0 to 2**32 - 1, got {self.seed}")

    def _random_numbers(self) -> tuple[int, int, int]:
        """R1, R2, R3."""
        # RandomState, not Generator: the stream of the authors' code, frozen by numpy for ever.
        draws = np.random.RandomState(self.seed).randint(0, RELEASED_PRIME, 50, dtype=np.int64)
        return int(draws[0]), int(draws[1]), int(draws[2])

    def addend(self, table: int, row_offset: int) -> int:
        """``(row_offset R3 + R1) mod P``."""
        r1, _, r3 = self._random_numbers()
        return (row_offset * r3 + r1) % RELEASED_PRIME

    def sign_addend(self, table: int) -> int:
        """Always 0: the published code has no sign hash."""
        return 0

    def to_dict(self) -> dict[str, Any]:
        """Everything that defines this hash, as JSON-able values."""
        return {"form": self.form, "seed": self.seed}

    def spec(self, block_size: int, num_slots: int, use_sign: bool) -> HashSpec:
        """The numbers that kernels need beside the addends: B = R3, C = R2."""
        _, r2, r3 = self._random_numbers()
        return HashSpec(RELEASED, RELEASED_PRIME, r3, r2, 0, 0, block_size, num_slots, int(use_sign))


GOLDEN = 0x9E37_79B9_7F4A_7C15  # 2**64 / golden ratio, the stride of splitmix64
MIX_1, MIX_2 = 0xBF58_476D_1CE4_E5B9, 0x94D0_49BB_1331_11EB


def _signed(x: int) -> int:
    """The int64 with the bits of ``x mod 2**64``."""
    x %= 2**64
    return x - 2**64 if x >= 2**63 else x


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift: zeros come in from the left."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix64(x: Tensor) -> Tensor:
    """The finalizer of splitmix64 on int64 bit patterns: a bijection of 64 bits (Steele, Lea, Flood 2014)."""
    x = (x ^ _shift_right(x, 30)) * _signed(MIX_1)
    x = (x ^ _shift_right(x, 27)) * _signed(MIX_2)
    return x ^ _shift_right(x, 31)


@dataclass(frozen=True)
class MixedHash:
    """Every chunk placed independently by a 64-bit mixer: formula (6) of docs/robe.md.

    Under equation 5 two tokens that share one chunk share about half of their chunks; here they do not.
    An option and an ablation: no gain in AUC was measured.

    Args:
        seed: any int.
    """

    form: ClassVar[str] = "mixed"

    seed: int = 0

    def __post_init__(self) -> None:
        _require_seed(self.seed)

    def addend(self, table: int, row_offset: int) -> int:
        """The 64 bits that stand for the table, as int64."""
        return _signed(_digest_int(f"robe mixed {self.seed} {table}"))

    def sign_addend(self, table: int) -> int:
        """The 64 bits that stand for the table in the sign hash, as int64."""
        return _signed(_digest_int(f"robe mixed sign {self.seed} {table}"))

    def to_dict(self) -> dict[str, Any]:
        """Everything that defines this hash, as JSON-able values."""
        return {"form": self.form, "seed": self.seed}

    def spec(self, block_size: int, num_slots: int, use_sign: bool) -> HashSpec:
        """The numbers that kernels need beside the addends: the mixer has no multipliers of its own."""
        return HashSpec(MIXED, 0, 0, 0, 0, 0, block_size, num_slots, int(use_sign))


Hash = UniversalHash | ReleasedHash | MixedHash
FORMS: dict[str, type[UniversalHash] | type[ReleasedHash] | type[MixedHash]] = {
    form.form: form for form in (UniversalHash, ReleasedHash, MixedHash)
}


def _linear(keys: Tensor, addend: Tensor | int, multiplier: int, step: int, count: int, prime: int) -> Tensor:
    """``(multiplier * k + step * c + addend) mod P`` for c = 0 ... count - 1: int64 [*keys, count] in [0, P)."""
    first = _add_mod(mul_mod(_residue(keys, prime), multiplier, prime), addend, prime)
    steps = torch.tensor([step * c % prime for c in range(count)], device=keys.device)
    return _add_mod(first.unsqueeze(-1), steps, prime)


def _mixed(keys: Tensor, addend: Tensor | int, count: int) -> Tensor:
    """``mix(mix(k xor addend) + c * GOLDEN)`` for c = 0 ... count - 1: 64 bits in int64 [*keys, count]."""
    steps = torch.tensor([_signed(c * GOLDEN) for c in range(count)], device=keys.device)
    return mix64(mix64(keys ^ addend).unsqueeze(-1) + steps)


def place(ids: Tensor, addend: Tensor | int, dim: int, spec: HashSpec) -> Tensor:
    """The slots of hashed embeddings: formulas (1) to (6) of docs/robe.md.

    Args:
        ids: int64 of any shape.
        addend: the table's term, an int or an int64 tensor broadcasting against ``ids``.
        dim: D.
        spec: the hash, Z and m.

    Returns:
        int64 [*ids, dim] in [0, m).
    """
    z, m = spec.block_size, spec.num_slots
    chunks = -(-dim // z)  # the last one may be short
    offset: Tensor | int = 0
    if z > dim and spec.form != RELEASED:  # several rows share a block (section 3.3 of the paper)
        ids, row_in_block = unsigned_divmod(ids, z // dim)
        offset = (row_in_block * dim).unsqueeze(-1)
    if spec.form == MIXED:
        starts = _shift_right(_mixed(ids, addend, chunks), 3) % m
    else:
        last_start = m - z if spec.form == RELEASED else m - 1  # blocks of the published code do not wrap
        values = _linear(ids, addend, spec.key_multiplier, spec.chunk_multiplier, chunks, spec.prime)
        starts = values % (last_start + 1)
    i = torch.arange(dim, device=ids.device)
    slots = starts.add_(offset).index_select(-1, i // z).add_(i % z)
    return slots.sub_((slots >= m) * m)  # wrap


def signs(ids: Tensor, addend: Tensor | int, dim: int, spec: HashSpec) -> Tensor:
    """The sign hash g, formula (7) of docs/robe.md: +1 or -1, int64 [*ids, dim].

    Args:
        ids: int64 of any shape.
        addend: the table's term of the sign hash, an int or an int64 tensor broadcasting against ``ids``.
        dim: D.
        spec: the hash.
    """
    if spec.form == MIXED:
        bits = _shift_right(_mixed(ids, addend, dim), 63)
    else:
        bits = _linear(ids, addend, spec.sign_key_multiplier, spec.sign_element_multiplier, dim, spec.prime) & 1
    return (bits << 1) - 1
