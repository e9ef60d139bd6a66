"""Epochs over the uneven shards of Criteo data, sharded over ranks."""

from functools import cache

import numpy as np
import pytest
from criteo_tools import raw_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from robe.data import CriteoSpec, Loader, Prefetcher, PreparedDataset, prepare_criteo


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Data sets of a number of rows whose first token is the number of the row."""

    @cache
    def data(rows: int, piece_bytes: int) -> PreparedDataset:
        folder = tmp_path_factory.mktemp("loader")
        lines = [line.split(b"\t") for line in raw_lines(rows)]
        for row, parts in enumerate(lines):
            parts[14] = b"%x" % row
        (folder / "train.txt").write_bytes(b"\n".join(b"\t".join(parts) for parts in lines))
        spec = CriteoSpec("criteo-kaggle", split="none")
        return prepare_criteo(folder / "train.txt", folder / "out", spec, piece_bytes=piece_bytes)

    return data


@settings(max_examples=60, deadline=None)
@given(
    rows=st.sampled_from([1, 2, 63, 500, 1021]),
    piece_bytes=st.sampled_from([300, 5000, 1 << 20]),
    world=st.integers(1, 6),
    batch_size=st.integers(1, 200),
    shuffle=st.booleans(),
    block_rows=st.integers(1, 100),
    blocks=st.integers(1, 4),
    stop=st.integers(0, 12),
    epoch=st.integers(0, 1),
    depth=st.integers(0, 3),
)
def test_every_row_exactly_once(
    make, rows, piece_bytes, world, batch_size, shuffle, block_rows, blocks, stop, epoch, depth
):
    dataset = make(rows, piece_bytes)

    def loader(rank):
        loader = Loader(
            dataset, "train", batch_size, rank=rank, world_size=world, shuffle=shuffle, seed=9,
            block_rows=block_rows, window_rows=block_rows * blocks,
        )  # fmt: skip
        loader.epoch = epoch
        return Prefetcher(loader, depth=depth) if depth else loader

    seen = []
    for rank in range(world):
        first = loader(rank)
        state = first.state_dict()
        for number, batch in enumerate(first):
            if number == stop:
                break
            seen += batch.ids[:, 0].tolist()
            state = first.state_dict()
        else:  # the epoch was over before it could be left
            assert len(first) <= stop
            continue
        second = loader(rank)
        second.load_state_dict(state)
        for batch in second:
            seen += batch.ids[:, 0].tolist()
    np.testing.assert_array_equal(np.sort(seen), np.arange(rows))
