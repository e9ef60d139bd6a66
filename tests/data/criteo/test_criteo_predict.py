"""New raw lines, encoded as a data set was: the rows that the very lines have in it."""

import gzip

import numpy as np
import pytest
from criteo_tools import raw_lines, read_plainly, rows_of

from robe.data import CriteoSpec, DataError, TableSpec, encode_criteo, encode_table, prepare_criteo, prepare_table

LINES = raw_lines(900, seed=12)


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict")
    (folder / "train.txt").write_bytes(b"\n".join(LINES) + b"\n")

    def made(**spec):
        spec = CriteoSpec(**({"recipe": "criteo-kaggle", "split": "none"} | spec))
        return prepare_criteo(folder / "train.txt", folder / "out", spec, piece_bytes=30_000, overwrite=True)

    return made


SPECS = {
    "direct": {},
    "modulo": {"max_ind_range": 50},
    "numbers": {"numeric_transform": "none"},
    "minmax": {"numeric_transform": "minmax"},
    "vocabulary": {"ids": "vocabulary"},
    "frequency": {"ids": "vocabulary", "order": "frequency", "min_count": 2, "numeric_transform": "minmax"},
    "value": {"ids": "vocabulary", "order": "value", "vocabulary_from": "train"},
}


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("labelled", [True, False])
def test_the_rows_of_the_data_set(make, tmp_path, name, labelled):
    like = make(**SPECS[name])
    lines = LINES if labelled else [line.split(b"\t", 1)[1] for line in LINES]
    content = b"\n".join(lines) + (b"\n" if labelled else b"")
    source = tmp_path / ("new.txt.gz" if name in ("minmax", "value") else "new.txt")
    source.write_bytes(gzip.compress(content) if source.suffix == ".gz" else content)
    found = encode_criteo(source, like, tmp_path / "encoded", piece_bytes=20_000)
    assert found.fields == like.fields
    assert found.splits == ("predict",)
    assert found.manifest.details["like"] == like.digest
    assert found.manifest.missing_numeric == like.manifest.missing_numeric
    label, dense, ids = rows_of(found, "predict")
    expected = rows_of(like, "train")
    np.testing.assert_array_equal(label, expected[0] if labelled else np.full(900, np.nan))
    np.testing.assert_array_equal(dense, expected[1])
    np.testing.assert_array_equal(ids, expected[2])


def test_unknown_tokens(make, tmp_path):
    new = raw_lines(50, seed=99)
    (tmp_path / "new.txt").write_bytes(b"\n".join(new))
    like = make(ids="vocabulary", vocabulary_from="train")
    _, _, ids = rows_of(encode_criteo(tmp_path / "new.txt", like, tmp_path / "out"), "predict")
    tokens = np.array([row[2] for row in read_plainly(b"\n".join(LINES))[0]])
    wanted = np.array([row[2] for row in read_plainly(b"\n".join(new))[0]])
    known = np.stack([np.isin(wanted[:, f], tokens[:, f]) for f in range(26)], axis=1)
    assert 0 < known.mean() < 1
    np.testing.assert_array_equal(ids > 0, known)
    with pytest.raises(DataError, match=r"new.txt line \d+: C1 is \w{8}, which the vocabulary of .* --min-count 2"):
        encode_criteo(tmp_path / "new.txt", make(ids="vocabulary"), tmp_path / "out", overwrite=True)


@pytest.mark.parametrize(
    ("labelled", "bad", "message"),
    [
        (True, b"2" + LINES[0][1:], r"new.txt line 301: label: expected 0 or 1, got '2'; every line gets a row"),
        (
            False,
            b"x",
            r"new.txt line 301: expected 40 columns, got 2 \(a label, which the first line has not, is counted",
        ),
    ],
)
def test_a_malformed_line_is_an_error(make, tmp_path, labelled, bad, message):
    lines = LINES if labelled else [line.split(b"\t", 1)[1] for line in LINES]
    (tmp_path / "new.txt").write_bytes(b"\n".join([*lines[:300], bad, *lines[300:]]))
    with pytest.raises(DataError, match=message):
        encode_criteo(tmp_path / "new.txt", make(), tmp_path / "out", piece_bytes=20_000)
    assert [path.name for path in tmp_path.iterdir()] == ["new.txt"]


def test_a_truncated_gzip_is_an_error(make, tmp_path):
    (tmp_path / "new.gz").write_bytes(gzip.compress(b"\n".join(LINES))[:-3000])
    with pytest.raises(DataError, match="the gzip data end in the middle"):
        encode_criteo(tmp_path / "new.gz", make(), tmp_path / "out")


def test_data_of_another_kind(make, tmp_path):
    (tmp_path / "t.csv").write_text("y,u\n1,a\n0,b\n")
    table = prepare_table(tmp_path / "t.csv", tmp_path / "table", TableSpec("y", ("u",)))
    with pytest.raises(DataError, match="is table, not made of Criteo's files"):
        encode_criteo(tmp_path / "t.csv", table, tmp_path / "out")
    with pytest.raises(DataError, match="not made of a table"):
        encode_table(tmp_path / "t.csv", make(), tmp_path / "out")
    like = make()
    with pytest.raises(DataError, match="which would be lost"):
        encode_criteo(tmp_path / "t.csv", like, like.path, overwrite=True)
