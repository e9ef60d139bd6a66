"""The hash in Python integers, written from docs/robe.md and independent of the library's code."""

import hashlib

P61 = 2**61 - 1
MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def sha(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")


def universal_coefficients(seed: int, prime: int = P61, label: str = "") -> tuple[int, int, int, int]:
    a, b, c = (1 + sha(f"robe universal {label}{name} {seed}") % (prime - 1) for name in "ABC")
    return a, b, c, sha(f"robe universal {label}D {seed}") % prime


def mix64(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def chunks_of(x: int, dim: int, z: int) -> list[tuple[int, int, int]]:
    """(key, chunk, offset) of every element of id x."""
    u = x & MASK
    if z <= dim:
        return [(u, i // z, i % z) for i in range(dim)]
    rows = z // dim
    return [(u // rows, 0, (u % rows) * dim + i) for i in range(dim)]


def universal_slots(coefficients, prime, table, x, dim, z, m) -> list[int]:
    a, b, c, d = coefficients
    return [((a * table + b * k + c * q + d) % prime % m + o) % m for k, q, o in chunks_of(x, dim, z)]


def universal_signs(coefficients, prime, table, x, dim) -> list[int]:
    a, b, c, d = coefficients
    return [2 * ((a * table + b * (x & MASK) + c * i + d) % prime % 2) - 1 for i in range(dim)]


def mixed_slots(seed, table, x, dim, z, m) -> list[int]:
    word = sha(f"robe mixed {seed} {table}") & MASK
    return [((mix64((mix64(k ^ word) + q * GOLDEN) & MASK) >> 3) % m + o) % m for k, q, o in chunks_of(x, dim, z)]


def mixed_signs(seed, table, x, dim) -> list[int]:
    word = sha(f"robe mixed sign {seed} {table}") & MASK
    return [2 * (mix64((mix64((x & MASK) ^ word) + i * GOLDEN) & MASK) >> 63) - 1 for i in range(dim)]
