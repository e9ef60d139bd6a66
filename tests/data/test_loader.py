import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robe.data import DataError, Loader, PreparedDataset, TableSpec, prepare_table
from robe.data.order import ShuffledOrder
from robe.jagged import Jagged

ROWS = 1000


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """Row i has id i, dense feature i and label i mod 2; as a bag, i mod 3 times the id i."""
    folder = tmp_path_factory.mktemp("loader")
    lines = [f"{i % 2},{i},{'|'.join([str(i)] * (i % 3))},{i}" for i in range(ROWS)]
    (folder / "rows.csv").write_text("label,row,bag,x\n" + "\n".join(lines) + "\n")
    spec = TableSpec("label", categorical=("row",), numeric=("x",), ids="raw")
    prepare_table(folder / "rows.csv", folder / "plain", spec)
    spec = TableSpec("label", categorical=("row",), numeric=("x",), multi=("bag:|",), ids="raw")
    prepare_table(folder / "rows.csv", folder / "bags", spec)
    return PreparedDataset.open(folder / "plain")


def rows_of(loader: Loader) -> list[list[int]]:
    return [batch.ids[:, 0].tolist() for batch in loader]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 5000),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 3),
    block_rows=st.integers(1, 700),
    blocks=st.integers(1, 6),
)
def test_an_order_is_a_permutation_in_windows(rows: int, seed: int, epoch: int, block_rows: int, blocks: int) -> None:
    order = ShuffledOrder(rows, seed=seed, epoch=epoch, window_rows=block_rows * blocks, block_rows=block_rows)
    seen, position, number = [], 0, 0
    while position < rows:
        assert order.find(position) == number
        window = order.window(number)
        assert window.start == position
        read = np.concatenate([np.arange(*block) for block in window.blocks])
        assert len(read) <= block_rows * blocks
        seen.append(read[window.order])
        position += len(read)
        assert order.find(position - 1) == number
        number += 1
    found = np.concatenate(seen) if seen else np.empty(0)
    np.testing.assert_array_equal(np.sort(found), np.arange(rows))


@settings(max_examples=60, deadline=None)
@given(
    world=st.integers(1, 7),
    batch_size=st.integers(1, 400),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
    block_rows=st.integers(1, 300),
    blocks=st.integers(1, 4),
)
def test_every_row_once_over_ranks(
    data: PreparedDataset, world: int, batch_size: int, shuffle: bool, drop_last: bool, block_rows: int, blocks: int
) -> None:
    ranks = []
    for rank in range(world):
        loader = Loader(
            data,
            "train",
            batch_size,
            shuffle=shuffle,
            rank=rank,
            world_size=world,
            drop_last=drop_last,
            block_rows=block_rows,
            window_rows=block_rows * blocks,
        )
        batches = rows_of(loader)
        assert len(batches) == len(loader)
        ranks.append(batches)
    assert len({len(batches) for batches in ranks}) == 1
    for groups in zip(*ranks, strict=True):
        sizes = [len(part) for part in groups]
        assert max(sizes) - min(sizes) <= 1
    together = [row for group in zip(*ranks, strict=True) for part in group for row in part]
    if drop_last:
        assert len(together) == ROWS // (world * batch_size) * world * batch_size
        assert len(set(together)) == len(together)
    else:
        assert sorted(together) == list(range(ROWS))
    if not shuffle:
        assert together == list(range(len(together)))


@settings(max_examples=40, deadline=None)
@given(stop=st.integers(0, 20), epoch=st.integers(0, 2), batch_size=st.integers(50, 300), world=st.integers(1, 3))
def test_resumes_exactly(data: PreparedDataset, stop: int, epoch: int, batch_size: int, world: int) -> None:
    def loader() -> Loader:
        return Loader(
            data, "train", batch_size, world_size=world, rank=world - 1, block_rows=64, window_rows=256, seed=5
        )

    first = loader()
    for _ in range(epoch):
        rows_of(first)
    whole = loader()
    whole.load_state_dict(first.state_dict())
    expected = rows_of(whole) + rows_of(whole)

    state, seen = first.state_dict(), []
    for batch in first:
        if len(seen) == stop:
            break
        seen.append(batch.ids[:, 0].tolist())
        state = first.state_dict()
    second = loader()
    second.load_state_dict(json.loads(json.dumps(state)))
    assert second.epoch == epoch
    rest = rows_of(second)
    assert second.epoch == epoch + 1
    assert seen + rest + rows_of(second) == expected


def test_order_depends_on_epoch_and_seed_only(data: PreparedDataset) -> None:
    a, b = Loader(data, "train", 64, seed=1), Loader(data, "train", 64, seed=1)
    first = rows_of(a)
    assert first == rows_of(b)
    assert a.epoch == 1
    assert rows_of(a) != first
    assert rows_of(Loader(data, "train", 64, seed=2)) != first
    whole = [row for batch in first for row in batch]
    assert abs(np.corrcoef(whole, np.arange(ROWS))[0, 1]) < 0.15


def test_golden_order(data: PreparedDataset) -> None:
    # The order is part of what a seed means: it must not change with numpy or with the code.
    loader = Loader(data, "train", 8, seed=3, block_rows=100, window_rows=300)
    assert next(iter(loader)).ids[:, 0].tolist() == [136, 264, 472, 181, 265, 115, 499, 248]


def test_an_epoch_left_early_starts_again(data: PreparedDataset) -> None:
    loader = Loader(data, "train", 100)
    first = next(iter(loader)).ids.tolist()
    assert loader.state_dict()["batch"] == 1
    again = [batch.ids.tolist() for batch in loader]
    assert again[0] == first
    assert len(again) == 10


def test_columns_stay_together(data: PreparedDataset) -> None:
    for batch in Loader(data, "train", 128, block_rows=32, window_rows=128):
        row = batch.ids[:, 0]
        assert batch.dense is not None
        assert torch.equal(batch.dense[:, 0], row.float())
        assert torch.equal(batch.label, (row % 2).float())


@pytest.mark.parametrize("shuffle", [True, False])
def test_bags_follow_their_rows(data: PreparedDataset, shuffle: bool) -> None:
    bags = PreparedDataset.open(data.path.parent / "bags")
    seen = []
    for batch in Loader(bags, "train", 70, shuffle=shuffle, block_rows=32, window_rows=128):
        assert isinstance(batch.ids, Jagged)
        rows, offsets, _ = batch.ids.field(0)
        assert offsets.diff().eq(1).all()
        values, offsets, _ = batch.ids.field(1)
        assert torch.equal(offsets.diff(), rows % 3)
        assert torch.equal(values, rows.repeat_interleave(rows % 3))
        seen += rows.tolist()
    assert sorted(seen) == list(range(ROWS))


def test_a_last_batch_may_be_empty(data: PreparedDataset) -> None:
    # 1000 = 3 * 333 + 1: the last group has one row for three ranks.
    last = [list(Loader(data, "train", 111, rank=r, world_size=3))[-1] for r in range(3)]
    assert sorted(batch.size for batch in last) == [0, 0, 1]
    empty = next(batch for batch in last if not batch.size)
    assert empty.ids.shape == (0, 1)
    assert empty.dense is not None
    assert empty.dense.shape == (0, 1)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"batch_size": 101}, "batch_size: state 100, loader 101"),
        ({"seed": 9}, "seed"),
        ({"shuffle": False}, "shuffle"),
        ({"world_size": 2}, "world_size"),
    ],
)
def test_refuses_a_foreign_state(data: PreparedDataset, change: dict[str, int], match: str) -> None:
    state = Loader(data, "train", 100).state_dict()
    with pytest.raises(DataError, match=match):
        Loader(data, "train", **{"batch_size": 100, **change}).load_state_dict(state)


def test_refuses_a_state_of_other_data_or_past_the_end(data: PreparedDataset) -> None:
    bags = PreparedDataset.open(data.path.parent / "bags")
    state = Loader(data, "train", 100).state_dict()
    with pytest.raises(DataError, match="dataset"):
        Loader(bags, "train", 100).load_state_dict(state)
    with pytest.raises(DataError, match="batch 0 to 10"):
        Loader(data, "train", 100).load_state_dict({**state, "batch": 11})


def test_refuses_bad_arguments(data: PreparedDataset) -> None:
    with pytest.raises(ValueError, match="batch_size"):
        Loader(data, "train", 0)
    with pytest.raises(ValueError, match="rank: expected 0 to world_size - 1 = 1, got 2"):
        Loader(data, "train", 1, rank=2, world_size=2)
    with pytest.raises(ValueError, match="window_rows"):
        Loader(data, "train", 1, window_rows=10, block_rows=11)
    with pytest.raises(DataError, match="did you mean 'train'"):
        Loader(data, "trian", 1)


def test_moves_to_a_device(data: PreparedDataset) -> None:
    batch = next(iter(Loader(data, "train", 4)))
    moved = batch.to("meta")
    assert moved.ids.device.type == moved.label.device.type == "meta"
    assert moved.size == batch.size == 4


def test_split_reads_views_in_stored_order(data: PreparedDataset, tmp_path: Path) -> None:
    split = data.split("train")
    assert split.rows == data.rows("train") == ROWS
    batch = split.read(10, 20)
    assert batch.ids[:, 0].tolist() == list(range(10, 20))
    assert batch.ids.data_ptr() == split.read(0, 20).ids[10:].data_ptr()
    assert split.read(5, 5).size == 0
    with pytest.raises(IndexError, match="rows 990 to 1001"):
        split.read(990, 1001)
    batch.ids.fill_(7)  # the map is private: the file keeps its rows
    assert PreparedDataset.open(data.path, verify=True).split("train").read(10, 11).ids.item() == 10
