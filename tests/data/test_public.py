"""Invented rows in the format of public data sets."""

import random

import pytest

from robe.data import DataError
from robe.data.public import _AVAZU, _FRAPPE, prepare_avazu, prepare_frappe, prepare_movielens


def write_avazu(folder, rows=60):
    draw = random.Random(1)
    head = ["id", "click", "hour", *_AVAZU]
    lines = [",".join(head)]
    for row in range(rows):
        hour = f"1410{21 + row % 7}{row % 24:02d}"
        lines.append(",".join([str(row), str(row % 2), hour, *[f"{draw.getrandbits(8):02x}" for _ in _AVAZU]]))
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    return folder / "train.csv"


def test_avazu(tmp_path):
    dataset = prepare_avazu(write_avazu(tmp_path), tmp_path / "out", ids="vocabulary")
    fields = {field.name: field.num_embeddings for field in dataset.fields}
    assert list(fields) == [*_AVAZU, "hour_of_day", "weekday", "is_weekend"]
    assert (fields["hour_of_day"], fields["weekday"], fields["is_weekend"]) == (25, 8, 3)
    assert sum(map(dataset.rows, dataset.splits)) == 60
    assert dataset.manifest.label_rate == pytest.approx(0.5)
    # 21 October 2014 was a Tuesday.
    spec_tokens = dataset.manifest.fields[-2].vocabulary
    import polars as pl

    assert pl.read_parquet(dataset.path / spec_tokens)["token"][0] == "2"


def write_movielens(folder, rows=80):
    draw = random.Random(2)
    (folder / "users.dat").write_text("".join(f"{u}::F::{18 + u % 3}::{u % 5}::1{u:04d}\n" for u in range(1, 9)))
    films = [f"{m}::Fil\xe9m: part {m} ({1990 + m})::{'|'.join(['Drama', 'War'][: 1 + m % 2])}\n" for m in range(1, 7)]
    (folder / "movies.dat").write_bytes("".join(films).encode("latin-1"))
    ratings = [f"{draw.randint(1, 8)}::{draw.randint(1, 6)}::{1 + row % 5}::97830{row:04d}\n" for row in range(rows)]
    (folder / "ratings.dat").write_text("".join(ratings))


def test_movielens(tmp_path):
    write_movielens(tmp_path)
    dataset = prepare_movielens(tmp_path, tmp_path / "out")
    names = ["user", "movie", "gender", "age", "occupation", "zip", "year", "genres"]
    assert [field.name for field in dataset.fields] == names
    sizes = {field.name: field.num_embeddings for field in dataset.fields}
    assert (sizes["user"], sizes["movie"], sizes["year"], sizes["genres"]) == (9, 7, 7, 3)
    assert dataset.fields[-1].multi
    assert dataset.manifest.label_rate == pytest.approx(0.4)
    assert sum(map(dataset.rows, dataset.splits)) == 80


def test_movielens_files_that_do_not_fit(tmp_path):
    write_movielens(tmp_path)
    with (tmp_path / "ratings.dat").open("a") as file:
        file.write("77::1::5::1\n")
    with pytest.raises(DataError, match=r"user 77 is not in users\.dat"):
        prepare_movielens(tmp_path, tmp_path / "out")
    with (tmp_path / "ratings.dat").open("a") as file:
        file.write("1::1::5\n")
    with pytest.raises(DataError, match="line 82: expected 4 columns joined by ::, got 3"):
        prepare_movielens(tmp_path, tmp_path / "out")
    (tmp_path / "users.dat").unlink()
    with pytest.raises(FileNotFoundError, match=r"no users\.dat in it; expected ratings\.dat"):
        prepare_movielens(tmp_path, tmp_path / "out")


def write_frappe(folder, prefix="frappe."):
    for split, rows in (("train", 30), ("validation", 9), ("test", 6)):
        lines = [
            f"{1 if row % 3 == 0 else -1} " + " ".join(f"{10 * f + row % 4}:1" for f in range(10))
            for row in range(rows)
        ]
        (folder / f"{prefix}{split}.libfm").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("prefix", ["", "frappe."])
def test_frappe(tmp_path, prefix):
    write_frappe(tmp_path, prefix)
    dataset = prepare_frappe(tmp_path, tmp_path / "out")
    assert [field.name for field in dataset.fields] == list(_FRAPPE)
    assert {field.num_embeddings for field in dataset.fields} == {5}
    assert {name: dataset.rows(name) for name in dataset.splits} == {"train": 30, "validation": 9, "test": 6}
    assert dataset.manifest.label_rate == pytest.approx(1 / 3)


def test_frappe_files_that_do_not_fit(tmp_path):
    write_frappe(tmp_path)
    with (tmp_path / "frappe.test.libfm").open("a") as file:
        file.write("2 1:1\n")
    with pytest.raises(DataError, match="line 7: expected 1 or -1 and 10 times index:1"):
        prepare_frappe(tmp_path, tmp_path / "out")
    (tmp_path / "frappe.test.libfm").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither frappe\.test\.libfm nor test\.libfm"):
        prepare_frappe(tmp_path, tmp_path / "out")
