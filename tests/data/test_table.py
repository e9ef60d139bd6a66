import gzip
import logging
import os
from hashlib import blake2b
from pathlib import Path

import polars as pl
import pytest

from robe.data import DataError, PreparedDataset, TableSpec, encode_table, prepare_table
from robe.jagged import Jagged

CSV = """rating,user,age,genres,fold,price
5,u1,18,Drama,0,1.5
3,u2,25,Drama|Comedy,0,
4,u1,18,,1,-2
1,u3,18,Comedy|Drama|War,4,1e3
2,,35,War,4,0
"""
IDS = {"ids": "vocabulary"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "ratings.csv"
    path.write_text(CSV)
    return path


def prepare(source: Path | list[Path], **spec: object) -> PreparedDataset:
    folder = (source if isinstance(source, Path) else source[0]).parent
    merged = {"label": "rating >= 4", "categorical": ("user",), **spec}
    return prepare_table(source, folder / "out", TableSpec(**merged), overwrite=True)  # type: ignore[arg-type]


def column(dataset: PreparedDataset, field: int = 0, split: str = "train") -> list[int]:
    ids = dataset.split(split).read(0, dataset.rows(split)).ids
    assert not isinstance(ids, Jagged)
    return ids[:, field].tolist()


def direct(token: str) -> int:
    return int.from_bytes(blake2b(token.encode(), digest_size=8).digest(), "little", signed=True)


def test_labels_numbers_and_vocabulary(source: Path) -> None:
    dataset = prepare(source, numeric=("price",), **IDS)
    batch = dataset.split("train").read(0, 5)
    assert batch.label.tolist() == [1, 0, 1, 0, 0]
    assert batch.dense is not None
    assert batch.dense[:, 0].tolist() == [1.5, 0.0, -2.0, 1000.0, 0.0]
    assert column(dataset) == [1, 2, 1, 3, 4]
    manifest = dataset.manifest
    assert manifest.fields[0].num_embeddings == 5
    assert manifest.missing_numeric == {"price": 1}
    assert (manifest.rows_read, manifest.rows_written, manifest.rows_quarantined) == (5, 5, 0)
    assert manifest.label_rate == 0.4
    assert manifest.sources[0].bytes == len(CSV)
    tokens = pl.read_parquet(dataset.path / "vocabulary" / "00.parquet")
    assert tokens.rows() == [("u1", 2), ("u2", 1), ("u3", 1), ("", 1)]
    assert not (dataset.path / "quarantine.tsv").exists()
    assert not (dataset.path / "spill").exists()


def test_direct_ids_are_the_documented_hash(source: Path) -> None:
    dataset = prepare(source)
    assert dataset.fields[0].num_embeddings is None
    assert column(dataset) == [direct(token) for token in ("u1", "u2", "u1", "u3", "")]
    assert direct("user 42 é") == -360194629021368311  # for ever
    assert "BLAKE2b" in dataset.manifest.ids["definition"]


def test_crosses_and_derived_columns(source: Path) -> None:
    derive = ("adult = CASE WHEN TRY_CAST(age AS BIGINT) >= 25 THEN 'yes' ELSE 'no' END", 'u = SUBSTR("user", 2, 1)')
    dataset = prepare(source, categorical=("adult", "u"), crosses=("user*genres", "adult*u*age"), derive=derive)
    assert column(dataset, 0) == [direct(t) for t in ("no", "yes", "no", "no", "yes")]
    assert column(dataset, 1) == [direct(t) for t in ("1", "2", "1", "3", "")]
    assert column(dataset, 2)[1] == direct("u2\x1fDrama|Comedy")
    assert column(dataset, 3)[3] == direct("no\x1f3\x1f18")


def test_crosses_are_unambiguous(tmp_path: Path) -> None:
    values = ["", "\x1f", "\x1b", "a", "\x1fa", "a\x1f", "\x1b\x1f", "\x1bs", "\x1be", "s", "e"]
    pairs = [(a, b) for a in values for b in values]
    path = tmp_path / "rows.parquet"
    pl.DataFrame({"a": [a for a, _ in pairs], "b": [b for _, b in pairs], "label": 1}).write_parquet(path)
    dataset = prepare(path, label="label", categorical=(), crosses=("a*b",))
    assert len(set(column(dataset))) == len(pairs)


def test_bags(source: Path) -> None:
    dataset = prepare(source, multi=("genres:|",), **IDS)
    assert [(f.name, f.num_embeddings, f.multi) for f in dataset.fields] == [("user", 5, False), ("genres", 4, True)]
    ids = dataset.split("train").read(0, 5).ids
    assert isinstance(ids, Jagged)
    values, offsets, _ = ids.field(1)
    assert offsets.tolist() == [0, 1, 3, 3, 6, 7]
    assert values.tolist() == [1, 1, 2, 2, 1, 3, 3]


def test_bags_from_a_list_column(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pl.DataFrame({"label": [0, 1, 1], "tags": [[3, 4], None, []], "x": [1, 2, 3]}).write_parquet(path)
    dataset = prepare(path, label="label", categorical=("x",), multi=("tags",), ids="raw")
    ids = dataset.split("train").read(0, 3).ids
    assert isinstance(ids, Jagged)
    assert ids.values.tolist() == [1, 2, 3, 3, 4]
    assert ids.offsets.tolist() == [0, 1, 2, 3, 5, 5, 5]


@pytest.mark.parametrize(
    ("text", "bag"),
    [
        ("genres:|", ("genres", "|")),
        ("a:b:|", ("a:b", "|")),
        ("genres::", ("genres", ":")),
        ("a:b::", ("a:b", ":")),
        ("tags", ("tags", "")),
        ("a:b:", ("a:b", "")),
        ("genres:, ", ("genres", ", ")),
    ],
)
def test_names_of_bags(text: str, bag: tuple[str, str]) -> None:
    assert TableSpec("label", multi=(text,)).bags == (bag,)


def test_bags_of_a_column_with_a_colon(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("label,a:b\n1,x:y\n0,z\n")
    ids = prepare(path, label="label", categorical=(), multi=("a:b::",)).split("train").read(0, 2).ids
    assert isinstance(ids, Jagged)
    assert ids.values.tolist() == [direct(token) for token in "xyz"]


@pytest.mark.parametrize(
    ("spec", "columns"),
    [
        ({"numeric": ("rating",)}, ["rating"]),
        ({"crosses": ("user*rating",)}, ["rating"]),
        ({"categorical": ("r",), "derive": ('r = SUBSTR("rating", 1, 1)',)}, ["rating"]),
        ({"label": "l >= 25", "derive": ("l = TRY_CAST(age AS BIGINT)",), "numeric": ("l",)}, ["age", "l"]),
        ({"numeric": ("price",), "derive": ('r = SUBSTR("rating", 1, 1)',)}, []),
    ],
)
def test_a_leaking_label_is_reported(
    source: Path, caplog: pytest.LogCaptureFixture, spec: dict[str, object], columns: list[str]
) -> None:
    with caplog.at_level(logging.WARNING, "robe"):
        prepare(source, **spec)
    assert [record.args[0] for record in caplog.records if isinstance(record.args, tuple)] == columns
    assert caplog.text.count("makes both the label and a feature") == len(columns)


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_input_is_never_overwritten(source: Path, tmp_path: Path, overwrite: bool) -> None:
    spec = TableSpec("rating >= 4", categorical=("user",))
    like = prepare_table(source, tmp_path / "like", spec)
    inner = tmp_path / "like" / "new.csv"
    inner.write_text(CSV)
    link = tmp_path / "link"
    os.symlink(like.path, link)
    for sources, out, match in (
        ([source], source, "is the input"),
        ([source], tmp_path, "contains the input"),
        ([source, inner], like.path, "contains the input"),
        ([inner], link, "contains the input"),
    ):
        with pytest.raises(DataError, match=match):
            prepare_table(sources, out, spec, overwrite=overwrite)
    with pytest.raises(DataError, match="contains the input"):
        prepare_table(source, like.path, spec, test=inner, overwrite=overwrite)
    with pytest.raises(DataError, match="is the input"):
        encode_table(source, like, like.path, overwrite=overwrite)
    assert source.read_text() == inner.read_text() == CSV
    assert PreparedDataset.open(like.path, verify=True).digest == like.digest


def test_split_by_column(source: Path) -> None:
    dataset = prepare(source, split_column="fold", split_values=("test=4", "validation=1"), **IDS)
    assert {name: dataset.rows(name) for name in dataset.splits} == {"train": 2, "validation": 1, "test": 2}
    assert column(dataset, split="test") == [3, 4]


def test_vocabulary_of_the_training_rows(source: Path) -> None:
    split = {"split_column": "fold", "split_values": ("test=4",)}
    dataset = prepare(source, **split, **IDS, vocabulary_from="train")
    assert column(dataset, split="test") == [0, 0]
    assert dataset.fields[0].num_embeddings == 3


def test_min_count(source: Path) -> None:
    dataset = prepare(source, min_count=2, **IDS)
    assert column(dataset) == [1, 0, 1, 0, 0]
    assert dataset.fields[0].num_embeddings == 2


def test_split_by_fractions(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("label,row\n" + "".join(f"{i % 2},{i}\n" for i in range(20_000)))
    spec = {"label": "label", "categorical": ("row",), "ids": "raw", "validation": 0.1, "test": 0.2}
    dataset = prepare(path, **spec)
    rows = {name: dataset.rows(name) for name in dataset.splits}
    assert rows["validation"] == pytest.approx(2000, abs=200)
    assert rows["test"] == pytest.approx(4000, abs=250)
    every = [row for name in dataset.splits for row in column(dataset, split=name)]
    assert sorted(every) == list(range(20_000))
    test = column(dataset, split="test")
    assert column(prepare(path, **spec), split="test") == test
    assert column(prepare(path, **spec, seed=1), split="test") != test


def test_separate_files(source: Path, tmp_path: Path) -> None:
    other = tmp_path / "test.csv"
    other.write_text("user,rating\nu9,5\n")
    spec = TableSpec("rating >= 4", categorical=("user",))
    dataset = prepare_table(source, tmp_path / "out", spec, test=other)
    assert (dataset.rows("train"), dataset.rows("test")) == (5, 1)
    assert column(dataset, split="test") == [direct("u9")]
    assert [info.rows for info in dataset.manifest.sources] == [5, 1]


@pytest.mark.parametrize("kind", ["tsv", "gz", "crlf", "bom", "parquet", "headerless", "two files", "blank lines"])
def test_the_same_rows_in_other_clothes(source: Path, tmp_path: Path, kind: str) -> None:
    spec = {"numeric": ("price",), "multi": ("genres:|",), "crosses": ("user*age",)}
    expected = prepare(source, **spec).digest
    head, *lines = CSV.splitlines()
    files = {
        "tsv": ("a.tsv", CSV.replace(",", "\t").encode()),
        "gz": ("a.csv.gz", gzip.compress(CSV.encode())),
        "crlf": ("a.csv", CSV.replace("\n", "\r\n").encode()),
        "bom": ("a.csv", b"\xef\xbb\xbf" + CSV.encode()),
        "headerless": ("a.csv", "\n".join(lines).encode()),
        "blank lines": ("a.csv", CSV.replace("\n", "\n\n").encode()),
        "two files": ("a.csv", "\n".join([head, *lines[:2]]).encode()),
    }
    if kind == "parquet":
        path = tmp_path / "a.parquet"
        pl.read_csv(source).write_parquet(path)
    else:
        name, content = files[kind]
        path = tmp_path / name
        path.write_bytes(content)
    paths = [path]
    if kind == "headerless":
        spec["columns"] = tuple(head.split(","))
    if kind == "two files":
        paths.append(tmp_path / "b.csv")
        paths[1].write_text("\n".join([head, *lines[2:]]))
    assert prepare(paths, **spec).digest == expected


def test_quoted_values(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('label,user\n1,"a,b"\n0,"say ""hi"""\n1,"two\nlines"\n')
    dataset = prepare(path, label="label")
    assert column(dataset) == [direct(token) for token in ("a,b", 'say "hi"', "two\nlines")]
    path.write_text('label\tuser\n1\t"a\n')
    dataset = prepare(path, label="label", separator="\t", quote="")
    assert column(dataset) == [direct('"a')]


def test_extreme_ids(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    extremes = [-1, 2**63 - 1, -(2**63), 0]
    path.write_text("label,user\n" + "".join(f"1,{value}\n" for value in extremes))
    assert column(prepare(path, label="label", ids="raw")) == extremes
    assert column(prepare(path, label="label", ids="vocabulary")) == [1, 2, 3, 4]
    assert column(prepare(path, label="label")) == [direct(str(value)) for value in extremes]
    pl.DataFrame({"label": 1, "user": extremes}).write_parquet(tmp_path / "a.parquet")
    assert column(prepare(tmp_path / "a.parquet", label="label", ids="raw")) == extremes
    path.write_text(f"label,user\n1,{2**63}\n")
    with pytest.raises(DataError, match="64-bit integer id, got 9223372036854775808"):
        prepare(path, label="label", ids="raw")


def test_log1p(source: Path) -> None:
    batch = prepare(source, numeric=("price",), numeric_transform="log1p").split("train").read(0, 5)
    assert batch.dense is not None
    assert batch.dense[:, 0].tolist() == pytest.approx([0.9162907, 0, 0, 6.9087548, 0])


def test_typed_columns_of_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    frame = pl.DataFrame({"clicked": [True, False], "when": ["2024-01-02", None], "x": [1.5, None], "n": [7, None]})
    frame.with_columns(pl.col("when").str.to_date(), kind=pl.Series(["a", "b"], dtype=pl.Categorical)).write_parquet(
        path
    )
    dataset = prepare(path, label="clicked", categorical=("when", "n", "kind", "x"))
    assert column(dataset, 0) == [direct("2024-01-02"), direct("")]
    assert column(dataset, 1) == [direct("7"), direct("")]
    assert column(dataset, 2) == [direct("a"), direct("b")]
    assert column(dataset, 3) == [direct("1.5"), direct("")]


def test_many_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robe.data.source._BLOCK", 1 << 16)
    path = tmp_path / "rows.csv"
    path.write_text("label,row,bag\n" + "".join(f"{i % 2},{i},{i}|{i + 1}\n" for i in range(30_000)))
    dataset = prepare(path, label="label", categorical=("row",), multi=("bag:|",), ids="vocabulary")
    assert dataset.fields[0].num_embeddings == 30_001
    assert dataset.fields[1].num_embeddings == 30_002
    ids = dataset.split("train").read(29_000, 29_002).ids
    assert isinstance(ids, Jagged)
    assert ids.values.tolist() == [29_001, 29_002, 29_001, 29_002, 29_002, 29_003]


def test_rows_to_predict(source: Path, tmp_path: Path) -> None:
    spec = {"numeric": ("price",), "multi": ("genres:|",), "derive": ('first = SUBSTR("user", 1, 1)',)}
    like = prepare(source, categorical=("user", "first"), **spec, **IDS)
    new = tmp_path / "new.csv"
    new.write_text("genres,user,price\nWar|Opera,u2,3\n,u7,\n")
    encoded = encode_table(new, like, tmp_path / "encoded")
    assert encoded.splits == ("predict",)
    assert encoded.fields == like.fields
    batch = encoded.split("predict").read(0, 2)
    assert batch.label.isnan().all()
    assert isinstance(batch.ids, Jagged)
    assert batch.ids.field(0)[0].tolist() == [2, 0]
    assert batch.ids.field(2)[0].tolist() == [3, 0]
    new.write_text("genres,user,price,rating\nWar,u2,3,5\n,u7,,\n")
    labels = encode_table(new, like, tmp_path / "encoded", overwrite=True).split("predict").read(0, 2).label
    assert labels[0] == 1
    assert labels[1].isnan()
    new.write_text("genres,user,price\nWar,u2,3\n,u7,dear\n")
    with pytest.raises(DataError, match="line 3: column 'price': expected a number, got dear"):
        encode_table(new, like, tmp_path / "again")


def test_movielens_with_crosses(shared_data: Path, tmp_path: Path) -> None:
    spec = TableSpec(
        "rating >= 4",
        categorical=("user", "movie", "zip", "genres", "year", "occupation", "age", "gender"),
        crosses=(
            *("user*genres", "user*decade", "movie*age*gender", "movie*occupation"),
            *("movie*zip3", "zip*genres", "user*year"),
        ),
        derive=("zip3 = SUBSTR(zip, 1, 3)", "decade = FLOOR(year / 10)"),
        split_column="fold",
        split_values=("test=4",),
        ids="vocabulary",
    )
    dataset = prepare_table(shared_data / "ml-1m" / "ml1m_full.parquet", tmp_path / "out", spec)
    assert dataset.manifest.rows_written == 1_000_209
    assert sum(field.num_embeddings - 1 for field in dataset.fields) == 1_442_595
    assert dataset.manifest.label_rate == pytest.approx(0.575, abs=0.001)
