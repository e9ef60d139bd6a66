"""A counter-based random source: the same numbers on every machine and with every version of numpy."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

UInt64 = NDArray[np.uint64]

_GOLDEN: Final = 0x9E3779B97F4A7C15
_MASK: Final = (1 << 64) - 1


def mix64(x: UInt64) -> UInt64:
    """The finaliser of SplitMix64 for every element of ``x``: a bijection of 64-bit words that looks random."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def stream_key(*words: int) -> int:
    """A 64-bit key for the stream of random numbers that ``words`` name, such as (seed, epoch, window)."""
    key = 0
    for word in words:
        key = int(mix64(np.array([(key + _GOLDEN + word) & _MASK], dtype=np.uint64))[0])
    return key


def random_words(key: int, counter: NDArray[np.integer]) -> UInt64:
    """Random 64-bit words at positions ``counter`` of stream ``key``: SplitMix64 started at ``key``."""
    return mix64(counter.astype(np.uint64) * np.uint64(_GOLDEN) + np.uint64(key))


def uniform(words: UInt64) -> NDArray[np.float64]:
    """Words as numbers in [0, 1), multiples of 2^-53."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(key: int, n: int) -> NDArray[np.int64]:
    """A permutation of 0..n-1 that depends on ``key`` and ``n`` alone."""
    # Distinct counters give distinct words, so every sorting algorithm gives the same order.
    return np.argsort(random_words(key, np.arange(n))).astype(np.int64, copy=False)
