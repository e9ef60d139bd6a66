import gzip

import numpy as np
import pytest
from criteo_tools import read_plainly

from robe.data import CriteoSpec, generate_kaggle, generate_terabyte, prepare_criteo
from robe.data.criteo.generate import _MISSING


def test_kaggle(tmp_path):
    file = generate_kaggle(tmp_path / "train.txt", 20_000, scale=0.001)
    good, bad = read_plainly(file.read_bytes())
    assert (len(good), bad) == (20_000, [])
    missing = np.mean([[count is None for count in row[1]] for row in good], axis=0)
    np.testing.assert_allclose(missing, _MISSING[:13], atol=0.02)
    second = [row[1][1] for row in good]
    assert min(second) == -3
    assert 0.08 < np.mean([count < 0 for count in second]) < 0.12
    fields = np.array([row[2] for row in good])
    assert (fields >= 0).all()
    assert (fields < 2**32).all()
    np.testing.assert_allclose((fields == 0).mean(axis=0), _MISSING[13:], atol=0.02)
    assert len(np.unique(fields[:, 2])) > 3000  # 10,131 tokens
    tokens = [token for token in file.read_bytes().split(b"\n")[0].split(b"\t")[14:] if token]
    assert {len(token) for token in tokens} == {8}


def test_equal_seeds_give_equal_bytes(tmp_path):
    one = generate_kaggle(tmp_path / "one", 9000, scale=0.001).read_bytes()
    assert generate_kaggle(tmp_path / "two", 9000, scale=0.001).read_bytes() == one
    assert generate_kaggle(tmp_path / "three", 9000, scale=0.001, seed=1).read_bytes() != one
    assert gzip.decompress(generate_kaggle(tmp_path / "one.gz", 9000, scale=0.001).read_bytes()) == one
    with pytest.raises(FileExistsError, match="--overwrite"):
        generate_kaggle(tmp_path / "one", 9000)
    generate_kaggle(tmp_path / "one", 100, scale=0.001, overwrite=True)
    assert not list(tmp_path.glob(".*"))


def test_terabyte(tmp_path):
    files = generate_terabyte(tmp_path / "tb", 1000, days=3, compress=True, scale=0.001)
    assert [file.name for file in files] == ["day_0.gz", "day_1.gz", "day_2.gz"]
    assert [len(gzip.decompress(file.read_bytes()).splitlines()) for file in files] == [333, 333, 334]
    dataset = prepare_criteo(files, tmp_path / "out", CriteoSpec("criteo-tb"))
    assert {name: dataset.rows(name) for name in dataset.splits} == {"train": 666, "test": 167, "validation": 167}
    with pytest.raises(ValueError, match="at least one for each of 3 days"):
        generate_terabyte(tmp_path / "tb", 2, days=3)
