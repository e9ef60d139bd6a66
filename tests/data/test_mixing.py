import numpy as np

from robe.data.mixing import permutation, random_words, stream_key, uniform


def test_is_splitmix64() -> None:
    # The published first outputs of SplitMix64 from state 0.
    words = random_words(0, np.array([1, 2, 3]))
    assert [int(word) for word in words] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_uniform_is_in_range_and_even() -> None:
    u = uniform(random_words(stream_key(1), np.arange(100_000)))
    assert u.min() >= 0
    assert u.max() < 1
    counts = np.histogram(u, bins=20, range=(0, 1))[0]
    assert np.abs(counts - 5000).max() < 5 * np.sqrt(5000)


def test_streams_differ() -> None:
    keys = {stream_key(*words) for words in [(0,), (1,), (0, 0), (0, 1), (1, 0), (2**63,)]}
    assert len(keys) == 6
    assert not np.array_equal(permutation(stream_key(0), 50), permutation(stream_key(1), 50))


def test_permutation_of_nothing() -> None:
    assert permutation(5, 0).tolist() == []
    assert permutation(5, 1).tolist() == [0]
