import numpy as np
import pyarrow as pa
import pytest

from robe.data import Field, SyntheticSpec, generate
from robe.data.format import FieldInfo, Manifest
from robe.data.writer import SplitWriter, write_manifest
from robe.train import load_config


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """3,000 rows, 3 fields, 2 numeric features, both classes everywhere."""
    folder = tmp_path_factory.mktemp("train") / "data"
    generate(SyntheticSpec(3000, cardinalities=(50, 40, 30), num_dense=2, signal=3.0), folder)
    return folder


@pytest.fixture
def config(data):
    """A configuration that trains in a moment; takes further overrides."""

    def make(*overrides, path=data):
        small = ["train.epochs=3", "train.batch_size=100", "model.embedding_dim=4", "model.bottom_mlp=[8]"]
        small += [
            "model.top_mlp=[8]",
            "embedding.block_size=2",
            "train.log_every=7",
            "train.learning_rate=0.01",
            "train.threads=1",
        ]
        if "embedding.kind=full" not in overrides and not any("memory" in o or "num_slots" in o for o in overrides):
            small.append("embedding.compression=4")
        return load_config(None, [f"data.path={path}", *small, *overrides])

    return make


@pytest.fixture
def write_data(tmp_path):
    """Writes a data set of the given labels per split, one single-valued and one multi-valued field."""

    def write(labels, *, num_embeddings=20, name="made"):
        folder = tmp_path / name
        folder.mkdir()
        fields = (Field("a", num_embeddings), Field("b", num_embeddings, multi=True))
        splits = {}
        for split, values in labels.items():
            rng = np.random.default_rng(0)
            n = len(values)
            writer = SplitWriter(folder, split, fields, 0)
            lengths = rng.integers(0, 4, n)
            bags = pa.ListArray.from_arrays(
                pa.array(np.r_[0, lengths.cumsum()], pa.int32()),
                pa.array(rng.integers(0, num_embeddings or 2**60, lengths.sum()), pa.int64()),
            )
            ids = rng.integers(0, num_embeddings or 2**60, (n, 1))
            writer.write(np.asarray(values, np.float32), None, ids, {"b": bags})
            splits[split] = writer.close()
        rows = sum(len(v) for v in labels.values())
        manifest = Manifest(
            created_with="test", kind="table", ids={"kind": "raw"}, dense=(), splits=splits, spec={},
            fields=tuple(FieldInfo(name=f.name, num_embeddings=f.num_embeddings, multi=f.multi) for f in fields),
            rows_read=rows, rows_written=rows, label_rate=None,
        )  # fmt: skip
        write_manifest(folder, manifest)
        return folder

    return write
