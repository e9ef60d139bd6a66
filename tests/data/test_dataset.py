import json
import shutil
from pathlib import Path

import pytest

from robe.data import DataError, PreparedDataset, SyntheticSpec, generate


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return generate(SyntheticSpec(500, cardinalities=(10, 20), num_dense=2), tmp_path_factory.mktemp("dataset") / "d")


@pytest.fixture
def copy(made: PreparedDataset, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made.path, tmp_path / "copy"))


def edit(folder: Path, **changes: object) -> None:
    file = folder / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_opens(made: PreparedDataset, copy: Path) -> None:
    dataset = PreparedDataset.open(str(copy), verify=True)
    assert dataset.splits == ("train", "validation", "test")
    assert [field.name for field in dataset.fields] == ["C1", "C2"]
    assert [field.num_embeddings for field in dataset.fields] == [10, 20]
    assert dataset.dense_names == ("I1", "I2")
    assert dataset.num_dense == 2
    assert (dataset.rows("train"), dataset.rows("validation"), dataset.rows("test")) == (400, 50, 50)
    assert dataset.digest == made.digest


def test_the_digest_is_of_the_content(made: PreparedDataset, copy: Path, tmp_path: Path) -> None:
    edit(copy, created_with="another")
    assert PreparedDataset.open(copy).digest == made.digest
    other = generate(SyntheticSpec(500, cardinalities=(10, 20), num_dense=2, seed=1), tmp_path / "other")
    assert other.digest != made.digest


def test_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        PreparedDataset.open(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"no manifest.json"):
        PreparedDataset.open(tmp_path)


def test_another_version(copy: Path) -> None:
    edit(copy, version=2)
    with pytest.raises(DataError, match="format version 2, this robe reads version 1"):
        PreparedDataset.open(copy)


def test_damaged_manifest(copy: Path) -> None:
    edit(copy, rows_read=-1)
    with pytest.raises(DataError, match="damaged at rows_read"):
        PreparedDataset.open(copy)
    (copy / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        PreparedDataset.open(copy)
    (copy / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match="not the manifest of a prepared data set"):
        PreparedDataset.open(copy)


def test_damaged_shards(copy: Path) -> None:
    shard = copy / "train" / "00000.arrow"
    content = shard.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    shard.write_bytes(flipped)
    PreparedDataset.open(copy)
    with pytest.raises(DataError, match="SHA-256 differs"):
        PreparedDataset.open(copy, verify=True)
    shard.write_bytes(bytes(len(content)))
    with pytest.raises(DataError, match="not a shard"):
        PreparedDataset.open(copy).split("train").read(0, 1)
    shard.write_bytes(content[:-1])
    with pytest.raises(DataError, match="bytes by the manifest"):
        PreparedDataset.open(copy)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match="the manifest names this shard"):
        PreparedDataset.open(copy)


def test_unknown_split(made: PreparedDataset) -> None:
    with pytest.raises(DataError, match="did you mean 'validation'"):
        made.split("valid")
