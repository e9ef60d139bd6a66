import numpy as np
import pyarrow as pa
import pytest

from robe.data import Field, Loader, PreparedDataset
from robe.data.format import FieldInfo, Manifest
from robe.data.writer import SplitWriter, write_manifest
from robe.jagged import Jagged

FIELDS = [Field("a", 9000), Field("bag", 9000, multi=True), Field("b", None)]


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """8,000 rows in shards of 700, written in pieces of uneven size."""
    folder = tmp_path_factory.mktemp("writer")
    writer = SplitWriter(folder, "train", FIELDS, 2, shard_rows=700)
    start = 0
    for size in [1, 0, 699, 2100, 50, 5150]:
        rows = np.arange(start, start + size)
        bags = pa.array([[row] * (row % 4) for row in rows.tolist()], pa.list_(pa.int64()))
        dense = np.stack([rows, -rows], axis=1).astype(np.float32)
        writer.write((rows % 2).astype(np.float32), dense, np.stack([rows, rows * 2], axis=1), {"bag": bags})
        start += size
    info = writer.close()
    manifest = Manifest(
        created_with="test",
        kind="table",
        ids={},
        fields=tuple(FieldInfo(name=f.name, num_embeddings=f.num_embeddings, multi=f.multi) for f in FIELDS),
        dense=("x", "y"),
        splits={"train": info},
        rows_read=8000,
        rows_written=8000,
        label_rate=0.5,
        spec={},
    )
    write_manifest(folder, manifest)
    return PreparedDataset.open(folder, verify=True)


def test_shards(sharded: PreparedDataset) -> None:
    shards = sharded.manifest.splits["train"].shards
    assert [shard.rows for shard in shards] == [700] * 11 + [300]
    with pa.ipc.open_file(sharded.path / shards[0].file) as file:
        assert file.num_record_batches == 1
        assert file.schema == pa.schema(
            [
                ("label", pa.float32()),
                ("dense", pa.list_(pa.float32(), 2)),
                ("ids", pa.list_(pa.int64(), 2)),
                ("bag.bag", pa.list_(pa.int64())),
            ]
        )


@pytest.mark.parametrize(("start", "stop"), [(0, 8000), (650, 750), (699, 2101), (7999, 8000), (1400, 1400)])
def test_reads_across_shards(sharded: PreparedDataset, start: int, stop: int) -> None:
    check(sharded.split("train").read(start, stop), np.arange(start, stop))


def test_shuffles_across_shards(sharded: PreparedDataset) -> None:
    seen = []
    for batch in Loader(sharded, "train", 333, block_rows=150, window_rows=1000):
        assert isinstance(batch.ids, Jagged)
        rows = batch.ids.field(0)[0].numpy()
        check(batch, rows)
        seen += rows.tolist()
    assert sorted(seen) == list(range(8000))


def check(batch, rows: np.ndarray) -> None:
    assert batch.size == len(rows)
    np.testing.assert_array_equal(batch.label, rows % 2)
    np.testing.assert_array_equal(batch.dense, np.stack([rows, -rows], axis=1))
    np.testing.assert_array_equal(batch.ids.field(0)[0], rows)
    values, offsets, _ = batch.ids.field(1)
    np.testing.assert_array_equal(offsets.diff(), rows % 4)
    np.testing.assert_array_equal(values, np.repeat(rows, rows % 4))
    np.testing.assert_array_equal(batch.ids.field(2)[0], rows * 2)
