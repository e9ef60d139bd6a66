import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import oracle
from robe.hashing import (
    MERSENNE_61,
    MixedHash,
    ReleasedHash,
    UniversalHash,
    mul_mod,
    place,
    signs,
    unsigned_divmod,
    unsigned_mod,
)

GOLDEN = Path(__file__).parent / "golden"
int64s = st.integers(-(2**63), 2**63 - 1)
edges = st.sampled_from([0, 1, -1, 2**63 - 1, -(2**63), 2**61 - 1, 2**61 - 2, 2**61, -(2**61), 2**31, 2**62])
ids = int64s | edges
primes = st.sampled_from([MERSENNE_61, 2038074743, 2305843009213693921, 1000003, 3, 2])


def golden(name: str) -> list[dict]:
    return json.loads((GOLDEN / name).read_text())["cases"]


@pytest.mark.parametrize("case", golden("paper.json"), ids=lambda c: f"D{c['embedding_dim']}-Z{c['block_size']}")
def test_paper_vectors(case):
    hash = UniversalHash(prime=case["prime"], coefficients=tuple(case[k] for k in "ABCD"))
    spec = hash.spec(case["block_size"], case["num_slots"], use_sign=False)
    slots = place(torch.tensor(case["ids"]), hash.addend(case["table"], 0), case["embedding_dim"], spec)
    assert slots.tolist() == case["slots"]


@pytest.mark.parametrize("case", golden("released.json"), ids=lambda c: f"D{c['embedding_dim']}-Z{c['block_size']}")
def test_released_vectors(case):
    hash = ReleasedHash(case["seed"])
    spec = hash.spec(case["block_size"], case["num_slots"], use_sign=False)
    slots = place(torch.tensor(case["ids"]), hash.addend(0, case["row_offset"]), case["embedding_dim"], spec)
    assert slots.tolist() == case["slots"]


@pytest.mark.parametrize("case", golden("seeded.json"), ids=lambda c: f"{c['form']}-seed{c['seed']}-Z{c['block_size']}")
def test_seeded_vectors(case):
    """What a seed means may never change: saved models depend on it."""
    hash = {"universal": UniversalHash, "mixed": MixedHash}[case["form"]](case["seed"])
    spec = hash.spec(case["block_size"], case["num_slots"], use_sign=True)
    tokens, dim = torch.tensor(case["ids"]), case["embedding_dim"]
    assert place(tokens, hash.addend(case["table"], 0), dim, spec).tolist() == case["slots"]
    assert signs(tokens, hash.sign_addend(case["table"]), dim, spec).tolist() == case["signs"]


def test_golden_vectors_are_those_of_the_design():
    shared = Path(__file__).parents[2] / "shared" / "vectors"
    if not shared.is_dir():
        pytest.skip("needs ../shared/vectors, which is not here")
    for name in ("paper.json", "released.json"):
        assert json.loads((GOLDEN / name).read_text()) == json.loads((shared / name).read_text())


@given(ids, st.integers(1, 2**62 - 1))
def test_unsigned_divmod(x, divisor):
    quotient, remainder = unsigned_divmod(torch.tensor([x]), divisor)
    expected = divmod(x % 2**64, divisor)
    assert (quotient.item() % 2**64, remainder.item()) == expected
    assert unsigned_mod(torch.tensor([x]), divisor).item() == expected[1]


@given(st.data(), primes)
def test_mul_mod(data, prime):
    a, x = data.draw(st.integers(0, prime - 1)), data.draw(st.integers(0, prime - 1))
    assert mul_mod(torch.tensor([x]), a, prime).item() == a * x % prime


@given(
    x=ids,
    table=st.integers(0, 1000),
    dim=st.integers(1, 20),
    z=st.integers(1, 20),
    rows=st.integers(1, 5),
    m=st.integers(100, 10_000) | st.sampled_from([2**31 + 11, 2**40 + 1, 2**60]),
    prime=primes,
    seed=st.integers(0, 2**70),
)
def test_universal_matches_python_integers(x, table, dim, z, rows, m, prime, seed):
    z = z if z <= dim else dim * rows
    hash = UniversalHash(seed, prime)
    assert hash.coefficients == oracle.universal_coefficients(seed, prime)
    spec = hash.spec(z, m, use_sign=True)
    got = place(torch.tensor([x]), hash.addend(table, 0), dim, spec)
    assert got.tolist() == [oracle.universal_slots(hash.coefficients, prime, table, x, dim, z, m)]
    got = signs(torch.tensor([x]), hash.sign_addend(table), dim, spec)
    g = oracle.universal_coefficients(seed, prime, "sign ")
    assert got.tolist() == [oracle.universal_signs(g, prime, table, x, dim)]


@given(
    x=ids,
    table=st.integers(0, 1000),
    dim=st.integers(1, 20),
    z=st.integers(1, 20),
    rows=st.integers(1, 5),
    m=st.integers(100, 10_000) | st.sampled_from([2**31 + 11, 2**60]),
    seed=st.integers(-5, 2**70),
)
def test_mixed_matches_python_integers(x, table, dim, z, rows, m, seed):
    z = z if z <= dim else dim * rows
    hash = MixedHash(seed)
    spec = hash.spec(z, m, use_sign=True)
    got = place(torch.tensor([x]), hash.addend(table, 0), dim, spec)
    assert got.tolist() == [oracle.mixed_slots(seed, table, x, dim, z, m)]
    got = signs(torch.tensor([x]), hash.sign_addend(table), dim, spec)
    assert got.tolist() == [oracle.mixed_signs(seed, table, x, dim)]


def test_signs_are_balanced():
    hash = UniversalHash(1)
    spec = hash.spec(16, 1000, use_sign=True)
    assert abs(signs(torch.arange(20_000), hash.sign_addend(0), 16, spec).double().mean()) < 0.01


def test_hashes_are_spread_evenly():
    """Chi-square of the starts over 1000 slots: mean 999, standard deviation 45."""
    for hash in (UniversalHash(3), MixedHash(3)):
        slots = place(torch.arange(1_000_000), hash.addend(2, 0), 1, hash.spec(1, 1000, use_sign=False))
        counts = torch.bincount(slots.flatten(), minlength=1000).double()
        assert ((counts - 1000) ** 2 / 1000).sum() < 1300


def test_same_arguments_give_equal_hashes():
    assert UniversalHash(3) == UniversalHash(3)
    assert UniversalHash(3) != UniversalHash(4)
    assert UniversalHash(prime=101, coefficients=(1, 2, 3, 4)).coefficients == (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UniversalHash(prime=100), "prime: expected a prime of at most 2\\*\\*61 - 1, got 100"),
        (lambda: UniversalHash(prime=2**89 - 1), "prime: expected a prime of at most"),
        (lambda: UniversalHash(prime=101, coefficients=(1, 2, 3, 101)), "coefficients: expected values in \\[0, prime"),
        (lambda: UniversalHash(coefficients=(1, 2, 3)), "coefficients: expected four ints"),
        (lambda: ReleasedHash(-1), "seed: numpy's RandomState takes 0 to"),
    ],
)
def test_bad_hashes(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_seed_must_be_an_int():
    with pytest.raises(TypeError, match=r"seed: expected an int, got 0\.5"):
        UniversalHash(0.5)
