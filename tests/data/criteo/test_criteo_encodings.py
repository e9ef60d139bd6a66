"""Vocabularies, numeric recipes and splits, against plain Python and scikit-learn."""

from collections import Counter

import numpy as np
import polars as pl
import pytest
from criteo_tools import raw_lines, read_plainly, rows_of
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import LabelEncoder, MinMaxScaler

from robe.data import CriteoSpec, DataError, prepare_criteo
from robe.data.criteo import codes, vocabulary
from robe.data.criteo.spec import KAGGLE, TERABYTE
from robe.data.criteo.splits import NAMES, Splitter

PIECE = 30_000


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    lines = raw_lines(4000, seed=5)
    lines[100] = lines[3900] = b"bad"
    content = b"\n".join(lines) + b"\n"
    file = tmp_path_factory.mktemp("raw") / "train.txt"
    file.write_bytes(content)
    return file, read_plainly(content)[0]


def make(raw, out, **spec):
    return prepare_criteo(raw, out, CriteoSpec(**({"recipe": KAGGLE, "split": "none"} | spec)), piece_bytes=PIECE)


def plain_vocabulary(column, order, min_count, counted):
    """Token to id, and the tokens in order; id 0 is for others when there is a reason."""
    counts = Counter(token for token, use in zip(column, counted, strict=True) if use)
    first = {token: row for row, token in reversed(list(enumerate(column)))}
    kept = [token for token in first if counts[token] >= min_count]
    keys = {"appearance": first.get, "value": int, "frequency": lambda token: (-counts[token], first[token])}
    kept.sort(key=keys[order])
    return kept, counts


@pytest.mark.parametrize("entries", [vocabulary._ENTRIES, 64])
@pytest.mark.parametrize("order", ["appearance", "frequency", "value"])
@pytest.mark.parametrize(("min_count", "source"), [(1, "all"), (3, "all"), (2, "train")])
def test_vocabulary(raw, tmp_path, monkeypatch, order, min_count, source, entries):
    monkeypatch.setattr(vocabulary, "_ENTRIES", entries)  # few: tokens are merged and ranked in many ranges
    file, good = raw
    split = "time" if source == "train" else "none"
    dataset = make(
        file, tmp_path / "out", ids="vocabulary", order=order, min_count=min_count, vocabulary_from=source, split=split
    )
    train = dataset.rows("train")
    unknown = int(min_count > 1 or source == "train")
    ids = np.concatenate([rows_of(dataset, name)[2] for name in dataset.splits])
    for f, field in enumerate(dataset.fields):
        column = [row[2][f] for row in good]
        counted = [source == "all" or row < train for row in range(len(column))]
        tokens, counts = plain_vocabulary(column, order, min_count, counted)
        number = {token: i + unknown for i, token in enumerate(tokens)}
        assert field.num_embeddings == len(tokens) + unknown
        assert ids[:, f].tolist() == [number.get(token, 0) for token in column]
        frame = pl.read_parquet(dataset.path / "vocabulary" / f"{f:02d}.parquet")
        assert frame["token"].to_list() == tokens
        assert frame["count"].to_list() == [counts[token] for token in tokens]
    assert "merge" not in {path.name for path in dataset.path.iterdir()}


def test_the_recipe_of_deepctr(raw, tmp_path):
    """fillna(0), MinMaxScaler over all lines; LabelEncoder over all lines."""
    file, good = raw
    dataset = make(
        file, tmp_path / "out", ids="vocabulary", order="value", numeric_transform="minmax", split="random-9-1-8-2"
    )
    dense = MinMaxScaler().fit_transform(np.array([[count or 0 for count in row[1]] for row in good], np.float64))
    tokens = np.array([row[2] for row in good])
    encoded = np.stack([LabelEncoder().fit_transform(tokens[:, f]) for f in range(26)], axis=1)
    lines = [line for line in range(4000) if line not in (100, 3900)]
    rest, test = train_test_split(np.arange(4000), test_size=0.1, random_state=2020)
    cut = int(len(rest) * (1 - 0.2))
    for name, wanted in (("train", rest[:cut]), ("validation", rest[cut:]), ("test", test)):
        rows = np.flatnonzero(np.isin(lines, wanted))
        label, found, ids = rows_of(dataset, name)
        np.testing.assert_array_equal(label, [good[row][0] for row in rows])
        np.testing.assert_array_equal(ids, encoded[rows])
        np.testing.assert_allclose(found, dense[rows], rtol=0, atol=1e-7)


@pytest.mark.parametrize("lines", [10, 11, 99, 1000, 12345, 1_000_003])
def test_random_split_is_that_of_scikit_learn(lines):
    rest, test = train_test_split(np.arange(lines), test_size=0.1, random_state=2020)
    cut = int(len(rest) * (1 - 0.2))
    codes = Splitter(CriteoSpec(KAGGLE, split="random-9-1-8-2"), [lines]).codes(0, 0, lines)
    for name, rows in (("train", rest[:cut]), ("validation", rest[cut:]), ("test", test)):
        np.testing.assert_array_equal(np.flatnonzero(codes == NAMES.index(name)), np.sort(rows))


def names_of(splitter, lines):
    """The split of every line, asked for in pieces of seven lines."""
    found = []
    for file, n in enumerate(lines):
        for start in range(0, n, 7):
            part = splitter.codes(file, start, min(7, n - start))
            found += [part] * min(7, n - start) if isinstance(part, str) else [NAMES[code] for code in part]
    return found


@settings(max_examples=50, deadline=None)
@given(lines=st.lists(st.integers(0, 60), min_size=1, max_size=4).filter(sum))
def test_ordered_splits(lines):
    total = sum(lines)
    days = [part.tolist() for part in np.array_split(np.arange(total), 7)]
    halves = [part.tolist() for part in np.array_split(days[6], 2)]
    found = names_of(Splitter(CriteoSpec(KAGGLE), lines), lines)
    assert found == ["train"] * sum(map(len, days[:6])) + ["test"] * len(halves[0]) + ["validation"] * len(halves[1])

    first, second = -(-lines[-1] // 2), lines[-1] // 2
    found = names_of(Splitter(CriteoSpec(TERABYTE), lines), lines)
    assert found == ["train"] * sum(lines[:-1]) + ["test"] * first + ["validation"] * second

    validation, test = round(total * 0.25), round(total * 0.1)
    found = names_of(Splitter(CriteoSpec(KAGGLE, split="time", validation=0.25), lines), lines)
    assert found == ["train"] * (total - validation - test) + ["validation"] * validation + ["test"] * test


def test_the_days_of_criteo_kaggle():
    splitter = Splitter(CriteoSpec(KAGGLE), [45_840_617])
    for line, name in ((0, "train"), (39_291_957, "train"), (39_291_958, "test"), (42_566_287, "test"),
                       (42_566_288, "validation"), (45_840_616, "validation")):  # fmt: skip
        assert splitter.codes(0, line, 1) == name


def test_half_of_day_23():
    lines = [195_841_983] * 23 + [178_274_637]
    splitter = Splitter(CriteoSpec(TERABYTE), lines)
    assert [splitter.codes(23, line, 1) for line in (0, 89_137_318, 89_137_319)] == ["test", "test", "validation"]
    assert splitter.codes(22, 195_841_982, 1) == "train"


def test_too_many_lines_for_a_random_split():
    with pytest.raises(DataError, match="use time or mlperf-tb"):
        Splitter(CriteoSpec(TERABYTE, split="random-9-1-8-2"), [200_000_000] * 24)


def test_days(tmp_path, caplog):
    days = [raw_lines(n, seed=n) for n in (300, 0, 200, 101)]
    days[1] = raw_lines(1)
    files = [tmp_path / f"day_{day}" for day in range(4)]
    for file, lines in zip(files, days, strict=True):
        file.write_bytes(b"\n".join(lines) + b"\n")
    dataset = prepare_criteo(files, tmp_path / "out", CriteoSpec(TERABYTE), piece_bytes=10_000)
    assert [source.rows for source in dataset.manifest.sources] == [300, 1, 200, 101]
    assert {name: dataset.rows(name) for name in dataset.splits} == {"train": 501, "test": 51, "validation": 50}
    assert "expected the 24 files day_0 to day_23, got 4" in caplog.text
    good = read_plainly(b"\n".join(days[3]))[0]
    assert rows_of(dataset, "test")[2].tolist() == [row[2] for row in good[:51]]
    assert rows_of(dataset, "validation")[2].tolist() == [row[2] for row in good[51:]]


@pytest.mark.parametrize("names", [["day_1", "day_10", "day_2"], ["day_3", "day_3"], ["day_2.gz", "day_0.gz"]])
def test_days_in_the_order_of_a_pattern(tmp_path, names):
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(
        DataError, match=r"expected days in their order, got day_\d(\.gz)? after day_\d+.*day_\{0\.\.23\}"
    ):
        prepare_criteo([tmp_path / name for name in names], tmp_path / "out", CriteoSpec(TERABYTE))
    assert len(list(tmp_path.iterdir())) == len(set(names))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"recipe": "criteo"}, "recipe: unknown 'criteo'"),
        ({"split": "dlrm"}, "split: unknown 'dlrm'; did you mean 'dlrm-kaggle'"),
        ({"min_count": 2}, "only for ids='vocabulary'"),
        ({"max_ind_range": 0}, "max_ind_range"),
        ({"split": "time", "test": 1.0}, "fractions that leave lines to train on"),
        ({"max_bad_rows": -1}, "max_bad_rows"),
        ({"max_bad_rows": float("nan")}, "max_bad_rows"),
        ({"validation": 0.2}, "only for split 'time'"),
    ],
)
def test_specs_that_make_no_sense(spec, message):
    with pytest.raises(ValueError, match=message):
        CriteoSpec(**({"recipe": KAGGLE} | spec))


def test_codes_of_an_empty_range(tmp_path):
    """A field whose tokens are all missing has one token, 0."""
    n = 5
    shards = codes.write_codes(
        tmp_path, "x", np.zeros(n, np.float32), np.zeros((n, 13), np.float32), np.zeros((n, 26), np.int64)
    )
    distinct = codes.Distinct(tmp_path / shards["tokens"].file)
    assert [array.tolist() for array in distinct.field(25)] == [[0], [n], [0]]
