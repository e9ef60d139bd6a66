import json
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robe.data import Loader, Prefetcher, PreparedDataset, TableSpec, prepare_table
from robe.jagged import Jagged

ROWS = 500


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    folder = tmp_path_factory.mktemp("prefetch")
    lines = [f"{i % 2},{i},{'|'.join([str(i)] * (i % 3))},{i}" for i in range(ROWS)]
    (folder / "rows.csv").write_text("label,row,bag,x\n" + "\n".join(lines) + "\n")
    spec = TableSpec("label", categorical=("row",), numeric=("x",), multi=("bag:|",), ids="raw")
    return prepare_table(folder / "rows.csv", folder / "bags", spec)


def rows_of(batches: Loader | Prefetcher) -> list[list[float]]:
    return [batch.dense[:, 0].tolist() for batch in batches if batch.dense is not None]


@pytest.mark.parametrize("depth", [1, 3, 100])
def test_the_batches_of_the_loader(data: PreparedDataset, depth: int) -> None:
    prefetcher = Prefetcher(Loader(data, "train", 70, seed=2), depth=depth)
    assert len(prefetcher) == 8
    whole = Loader(data, "train", 70, seed=2)
    for epoch in range(3):
        assert prefetcher.epoch == epoch
        assert rows_of(prefetcher) == rows_of(whole)
        assert prefetcher.state_dict() == whole.state_dict()


@settings(max_examples=30, deadline=None)
@given(stop=st.integers(0, 9), depth=st.integers(1, 12), epoch=st.integers(0, 1))
def test_states_are_those_of_the_batches_handed_out(data: PreparedDataset, stop: int, depth: int, epoch: int) -> None:
    whole = Loader(data, "train", 60)
    expected = [rows_of(whole) for _ in range(epoch + 2)]
    prefetcher = Prefetcher(Loader(data, "train", 60), depth=depth)
    for _ in range(epoch):
        rows_of(prefetcher)
    seen, state = [], prefetcher.state_dict()
    for batch in prefetcher:
        if len(seen) == stop:
            break
        assert batch.dense is not None
        seen.append(batch.dense[:, 0].tolist())
        state = prefetcher.state_dict()
    # The state goes on in another process, with or without prefetching.
    for other in (Loader(data, "train", 60), Prefetcher(Loader(data, "train", 60))):
        other.load_state_dict(json.loads(json.dumps(state)))
        assert seen + rows_of(other) == expected[epoch]
        assert rows_of(other) == expected[epoch + 1]
    # An epoch left early starts again.
    assert rows_of(prefetcher) == expected[epoch + (len(seen) == 9)]


def test_errors_arrive_and_threads_end(data: PreparedDataset) -> None:
    loader = Loader(data, "train", 50)
    broken = iter([next(iter(loader))])

    def fail() -> object:
        yield from broken
        raise ZeroDivisionError

    before = threading.active_count()
    prefetcher = Prefetcher(loader, depth=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loader, "__iter__", lambda self: fail())
        with pytest.raises(ZeroDivisionError):
            list(prefetcher)
    for _ in prefetcher:
        break
    assert threading.active_count() == before


def test_moves_batches(data: PreparedDataset) -> None:
    (batch, *_) = Prefetcher(Loader(data, "train", 500), device="meta")
    assert {tensor.device.type for tensor in batch.tensors()} == {"meta"}
    assert len(batch.tensors()) == 4


def test_refuses_bad_arguments(data: PreparedDataset) -> None:
    with pytest.raises(ValueError, match="depth"):
        Prefetcher(Loader(data, "train", 50), depth=0)
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match=r"device: expected one that is there, got cuda"):
            Prefetcher(Loader(data, "train", 50), device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_side_stream(data: PreparedDataset) -> None:
    plain = list(Loader(data, "train", 70, seed=4))
    for batch, wanted in zip(Prefetcher(Loader(data, "train", 70, seed=4), device="cuda"), plain, strict=True):
        assert batch.label.is_cuda
        assert isinstance(batch.ids, Jagged)
        for tensor, other in zip(batch.tensors(), wanted.tensors(), strict=True):
            assert torch.equal(tensor.cpu(), other)
