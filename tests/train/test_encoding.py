import json
import shutil

import polars as pl
import pytest

from robe.data import PreparedDataset, TableSpec, encode_table, prepare_table
from robe.train import load_config, load_run, run

SMALL = ["embedding.memory=256B", "train.epochs=1", "train.batch_size=50", "train.threads=1", "model.embedding_dim=4"]
SMALL += ["model.bottom_mlp=[4]", "model.top_mlp=[4]"]


@pytest.fixture(scope="module")
def prepare(tmp_path_factory):
    """Prepares 300 rows over 30 users; takes the ids, the order of users and other keys of the spec."""

    def make(ids, *, order=1, **keys):
        folder = tmp_path_factory.mktemp("encoding")
        users = range(30)[::order]
        rows = [(user % 2, user, i) for i in range(10) for user in users]
        pl.DataFrame(rows, schema=["click", "user", "age"], orient="row").write_parquet(folder / "raw.parquet")
        spec = TableSpec("click", categorical=("user",), numeric=("age",), validation=0.3, test=0.3, ids=ids, **keys)
        return prepare_table(folder / "raw.parquet", folder / "data", spec)

    return make


@pytest.fixture(scope="module")
def trained(prepare, tmp_path_factory):
    """A data set of the given ids and the folder of a run on it."""
    made = {}

    def train(ids):
        if ids not in made:
            dataset, out = prepare(ids), tmp_path_factory.mktemp("run")
            run(load_config(None, [f"data.path={dataset.path}", *SMALL]), out)
            made[ids] = dataset, out
        return made[ids]

    return train


@pytest.mark.parametrize(("ids", "other"), [("raw", "direct"), ("direct", "raw")])
def test_another_kind_of_ids_is_refused(trained, prepare, ids, other):
    loaded = load_run(trained(ids)[1])
    with pytest.raises(ValueError, match=f"its kind of ids is '{other}', the model was trained on '{ids}'"):
        loaded.require(prepare(other))


def test_another_vocabulary_of_the_same_size_is_refused(trained, prepare):
    dataset, out = trained("vocabulary")
    other = prepare("vocabulary", order=-1)
    assert other.fields == dataset.fields
    with pytest.raises(ValueError, match=r"its vocabulary of \['user'\] is not the one"):
        load_run(out).require(other)
    load_run(out).require(prepare("vocabulary"))  # made anew in the same way


def test_another_transform_of_numbers_is_refused(trained, prepare):
    with pytest.raises(ValueError, match="its transform of numbers is 'log1p', the model was trained on 'none'"):
        load_run(trained("direct")[1]).require(prepare("direct", numeric_transform="log1p"))


def test_rows_encoded_like_the_training_data_are_welcome(trained, prepare, tmp_path):
    dataset, out = trained("vocabulary")
    raw = dataset.path.parent / "raw.parquet"
    load_run(out).require(encode_table(raw, dataset, tmp_path / "like"))
    foreign = encode_table(raw, prepare("vocabulary", order=-1), tmp_path / "foreign")
    with pytest.raises(ValueError, match="its vocabulary of"):
        load_run(out).require(foreign)


def test_a_missing_vocabulary_is_told(prepare):
    dataset = prepare("vocabulary")
    (dataset.path / "vocabulary/00.parquet").unlink()
    with pytest.raises(FileNotFoundError, match="the manifest names this vocabulary"):
        run(load_config(None, [f"data.path={dataset.path}", *SMALL]), dataset.path.parent / "run")


def test_a_run_saved_before_is_loaded_with_a_note(trained, prepare, tmp_path, caplog):
    shutil.copytree(trained("vocabulary")[1], tmp_path / "run")
    file = tmp_path / "run/dataset.json"
    described = json.loads(file.read_text())
    assert described.pop("encoding")["ids"] == "vocabulary"
    file.write_text(json.dumps(described))
    with caplog.at_level("INFO", "robe"):
        load_run(tmp_path / "run").require(PreparedDataset.open(prepare("vocabulary", order=-1).path))
    assert "is not the data set of the run" in caplog.text
