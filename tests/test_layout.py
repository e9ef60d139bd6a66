import pytest
import torch

import robe
from robe.layout import Layout, Table, difference, parse_memory, resolve_num_slots


def test_tables_of_different_dims_share_one_array():
    layout = Layout((Table("a", 10, 4), Table("b", 20, 6)), num_slots=64, block_size=4)
    assert layout.slots("a", torch.arange(10)).shape == (10, 4)
    b = layout.slots(1, torch.arange(20))
    assert b.shape == (20, 6)
    assert b.min() >= 0
    assert b.max() < 64


def test_direct_tables_follow_the_hashed_part():
    layout = Layout(
        (Table("a", 3, 2, direct=True), Table("b", 50, 4), Table("c", 2, 5, direct=True)), num_slots=36, block_size=4
    )
    assert layout.hashed_slots == 36 - 6 - 10
    assert layout.slots("a", torch.tensor([0, 2])).tolist() == [[20, 21], [24, 25]]
    assert layout.slots("c", torch.tensor([1])).tolist() == [[31, 32, 33, 34, 35]]
    assert layout.slots("b", torch.arange(50)).max() < 20


def test_tables_have_numbers_of_their_own():
    both = Layout((Table("a", 10, 4), Table("b", 10, 4)), num_slots=1000, block_size=4)
    ids = torch.arange(10)
    assert not torch.equal(both.slots("a", ids), both.slots("b", ids))
    alone = Layout((Table("b", 10, 4, table_id=1),), num_slots=1000, block_size=4)
    assert torch.equal(alone.slots("b", ids), both.slots("b", ids))


def test_array_beyond_2_31_slots():
    layout = Layout((Table("a", None, 16),), num_slots=2**40 + 7, block_size=16)
    slots = layout.slots("a", torch.tensor([-1, 0, 2**63 - 1, -(2**63), 12345]))
    assert slots.min() >= 0
    assert slots.max() < 2**40 + 7
    assert (slots > 2**31).any()


def test_released_rows_are_numbered_over_all_tables():
    tables = (Table("a", 1460, 8), Table("b", 10, 8))
    layout = Layout(tables, num_slots=1000, block_size=4, hash=robe.ReleasedHash())
    assert layout.slots("b", torch.tensor([3])).tolist() == [[360, 361, 362, 363, 469, 470, 471, 472]]


def test_released_with_long_blocks_stays_in_bounds():
    layout = Layout((Table("a", 500, 4),), num_slots=40, block_size=16, hash=robe.ReleasedHash())
    slots = layout.slots("a", torch.arange(500))
    assert slots.max() < 40
    assert torch.equal(slots[:, 1:], slots[:, :-1] + 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Layout((), 10, 1), "tables: expected at least one"),
        (lambda: Layout((Table("a", 1, 1), Table("a", 1, 1)), 10, 1), r"names must be unique, repeated: \['a'\]"),
        (lambda: Layout((Table("a", 1, 1, table_id=1), Table("b", 1, 1)), 10, 1), "table_id 1 is used twice"),
        (lambda: Layout((Table("a", 9, 4),), 3, 4), "num_slots: expected at least block_size=4 slots .* got 3"),
        (lambda: Layout((Table("a", 9, 4),), 30, 6), "block_size: 6 is above embedding_dim=4 .* must be a multiple"),
        (lambda: Layout((Table("a", 9, 4, direct=True), Table("b", 9, 4)), 38, 4), "beside the 36 of direct tables"),
        (lambda: Layout((Table("a", None, 4),), 30, 4, robe.ReleasedHash()), "num_embeddings is needed; None for"),
        (lambda: Layout((Table("a", 5, 4),), 30, 4, robe.ReleasedHash(), True), "the released hash has no sign hash"),
        (lambda: Table("a", None, 4, direct=True), "direct placement needs num_embeddings"),
        (lambda: Table("a", 0, 4), "table 'a': num_embeddings: expected a positive int, got 0"),
        (lambda: Table("a", 1, 4, table_id=-1), r"expected table_id in \[0, 2\*\*31\), got -1"),
    ],
)
def test_bad_layouts(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_unknown_table_names_the_nearest():
    layout = Layout((Table("user", 10, 4), Table("movie", 10, 4)), 30, 4)
    with pytest.raises(KeyError, match=r"unknown name 'usr'; did you mean 'user'\? Known: \['movie', 'user'\]"):
        layout.slots("usr", torch.tensor([0]))
    with pytest.raises(IndexError, match=r"expected a number in \[0, 2\), got 2"):
        layout.slots(2, torch.tensor([0]))


@pytest.mark.parametrize("id", [-1, 10, 2**63 - 1])
def test_ids_outside_a_table(id):
    layout = Layout((Table("user", 10, 4),), 30, 4)
    with pytest.raises(IndexError, match=rf"ids of table 'user': expected ids in \[0, 10\), got {id}"):
        layout.slots("user", torch.tensor([3, id]))


@pytest.mark.parametrize(
    ("text", "size"),
    [("64MB", 64_000_000), ("64MiB", 64 * 2**20), ("1.5 GB", 1_500_000_000), (4096, 4096), ("4096", 4096), ("10b", 10)],
)
def test_memory(text, size):
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["6.4", "MB", "-1MB", "64 potatoes", "0MB", 1.5])
def test_bad_memory(text):
    with pytest.raises(ValueError, match="memory: expected"):
        parse_memory(text)


def test_three_ways_to_say_the_size():
    tables = [Table("a", 1000, 16), Table("b", 500, 8)]
    assert resolve_num_slots(tables, None, 100, None, torch.float32) == 200
    assert resolve_num_slots(tables, None, None, "1KB", torch.float32) == 250
    assert resolve_num_slots(tables, None, None, "1KB", torch.float16) == 500
    assert resolve_num_slots(tables, 77, None, None, torch.float32) == 77


@pytest.mark.parametrize("given", [{}, {"num_slots": 1, "memory": "1MB"}, {"compression": 2.0, "memory": "1MB"}])
def test_exactly_one_size(given):
    sizes = {"num_slots": None, "compression": None, "memory": None} | given
    with pytest.raises(ValueError, match="exactly one of num_slots=, compression= and memory="):
        resolve_num_slots([Table("a", 10, 4)], *sizes.values(), torch.float32)


def test_compression_without_rows_says_what_to_do():
    with pytest.raises(ValueError, match="give num_slots= or memory= instead of compression="):
        resolve_num_slots([Table("a", None, 4)], None, 10, None, torch.float32)


def test_difference_names_what_differs():
    old = Layout((Table("a", 10, 4),), 30, 4).to_dict()
    new = Layout((Table("a", 10, 4),), 30, 2, robe.UniversalHash(1)).to_dict()
    lines = difference(old, new)
    assert "block_size: saved 4, this module 2" in lines
    assert "hash.seed: saved 0, this module 1" in lines
    assert difference(old, old) == []
