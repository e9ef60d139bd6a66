import polars as pl
import pytest
from cli_tools import write_table

from robe.data import PreparedDataset
from robe.train import load_run, predict


def test_a_split_of_the_data(robe, trained, table_data, tmp_path):
    code, out, _ = robe("predict", trained, table_data, "-o", tmp_path / "p.parquet")
    assert code == 0
    frame = pl.read_parquet(tmp_path / "p.parquet")
    expected = predict(load_run(trained).model, PreparedDataset.open(table_data), "test")
    assert frame["probability"].to_list() == expected.tolist()
    assert frame["row"].to_list() == list(range(1, len(expected) + 1))
    assert f"{len(expected)} rows written" in out


@pytest.mark.parametrize("label", [True, False])
def test_raw_rows_with_and_without_label(robe, trained, tmp_path, label):
    """The raw table that the data set was made of gives each of its rows the probability that the split has."""
    raw = write_table(tmp_path / "new.csv", 500, label=label, seed=7)
    code, _, err = robe("predict", trained, raw, "-o", tmp_path / "p.csv")
    assert (code, err) == (0, "")
    frame = pl.read_csv(tmp_path / "p.csv")
    assert frame["row"].to_list() == list(range(1, 501))
    assert frame["probability"].is_between(0, 1).all()
    users = pl.read_csv(raw)["user"].str.slice(1).cast(int)
    odd = frame.filter(users % 2 == 1)["probability"].mean()
    even = frame.filter(users % 2 == 0)["probability"].mean()
    assert odd > even + 0.1


def test_raw_and_prepared_rows_agree(robe, trained, table_data, tmp_path):
    raw = write_table(tmp_path / "raw.csv", 3000)  # the very rows of table_data
    assert robe("predict", trained, raw, "-o", tmp_path / "raw.parquet")[0] == 0
    found = pl.read_parquet(tmp_path / "raw.parquet")["probability"]
    parts = []
    for split in ("train", "validation", "test"):
        assert robe("predict", trained, table_data, "--split", split, "-o", tmp_path / f"{split}.parquet")[0] == 0
        parts.append(pl.read_parquet(tmp_path / f"{split}.parquet")["probability"])
    together = pl.concat(parts)
    assert (found.sort() - together.sort()).abs().max() < 1e-6


def test_unknown_tokens_are_predicted(robe, trained, tmp_path):
    (tmp_path / "new.csv").write_text("user,movie,genres,age\nnobody,nothing,z|a,3\n,,,\n")
    assert robe("predict", trained, tmp_path / "new.csv", "-o", tmp_path / "p.csv")[0] == 0
    assert len(pl.read_csv(tmp_path / "p.csv")) == 2


def test_a_malformed_row_is_not_dropped(robe, trained, tmp_path):
    (tmp_path / "new.csv").write_text("user,movie,genres,age\nu1,m1,a,3\nu1,m1,a,old\nu1,m2,a,4\n")
    code, _, err = robe("predict", trained, tmp_path / "new.csv", "-o", tmp_path / "p.csv")
    assert (code, err.count("\n")) == (1, 1)
    assert "new.csv line 3" in err
    assert {p.name for p in tmp_path.iterdir()} == {"new.csv"}


def test_output_is_checked_first(robe, trained, table_data, tmp_path):
    assert robe("predict", trained, table_data, "-o", tmp_path / "p.txt")[0] == 2
    assert "no such folder" in robe("predict", trained, table_data, "-o", tmp_path / "no/p.csv")[2]
    (tmp_path / "p.csv").write_text("precious")
    code, _, err = robe("predict", trained, table_data, "-o", tmp_path / "p.csv")
    assert code == 1
    assert "--overwrite" in err
    assert (tmp_path / "p.csv").read_text() == "precious"
    assert robe("predict", trained, table_data, "-o", tmp_path / "p.csv", "--overwrite")[0] == 0
    assert "precious" not in (tmp_path / "p.csv").read_text()


def test_missing_source(robe, trained, tmp_path):
    code, _, err = robe("predict", trained, tmp_path / "no.csv", "-o", tmp_path / "p.csv")
    assert code == 1
    assert "no such file" in err
