import json
import signal
import time

import polars as pl
import pytest
from cli_tools import write_table

from robe.data import PreparedDataset

TABLE = ("--label", "rating >= 4", "-c", "user,movie", "--multi", "genres:|", "--numeric", "age")


@pytest.fixture
def raw(tmp_path):
    return write_table(tmp_path / "raw.csv", 300)


def test_table(robe, raw, tmp_path):
    code, out, err = robe(
        "prepare", "table", raw, tmp_path / "out", *TABLE, "--cross", "user*movie",
        "--derive", "ten = SUBSTR(age, 1, 1)", "--categorical", "ten",
        "--validation", "0.2", "--test", "0.1", "--ids", "vocabulary",
    )  # fmt: skip
    assert (code, err) == (0, "")
    dataset = PreparedDataset.open(tmp_path / "out", verify=True)
    assert [field.name for field in dataset.fields] == ["user", "movie", "ten", "genres", "user*movie"]
    assert sum(dataset.rows(split) for split in dataset.splits) == 300
    assert "5 fields (1 multi-valued)" in out
    assert "300 rows read, 0 malformed" in out


def test_table_json_and_quarantine(robe, raw, tmp_path):
    with raw.open("a") as file:
        file.write("9,u1\n")
    code, out, _ = robe("prepare", "table", raw, tmp_path / "out", *TABLE, "--json")
    assert code == 0
    summary = json.loads(out)
    assert (summary["rows_read"], summary["rows_quarantined"]) == (301, 1)
    assert summary["digest"] == PreparedDataset.open(tmp_path / "out").digest
    assert "raw.csv\t302\texpected 5 columns, got 2" in (tmp_path / "out" / "quarantine.tsv").read_text()


def test_split_values_and_files(robe, raw, tmp_path):
    other = write_table(tmp_path / "other.csv", 50, seed=1)
    code, _, _ = robe(
        "prepare", "table", raw, raw, tmp_path / "out", *TABLE, "--split-column", "movie", "--test-values", "m3,m4",
        "--validation-file", other,
    )  # fmt: skip
    assert code == 0
    dataset = PreparedDataset.open(tmp_path / "out")
    test = pl.read_csv(raw)["movie"].is_in(["m3", "m4"]).sum()
    assert dataset.rows("test") == 2 * test
    assert dataset.rows("validation") == 50
    assert dataset.rows("train") == 600 - 2 * test


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--categorical", "usr"], "no column 'usr'; did you mean 'user'"),
        (["--max-bad-rows", "-1"], "max_bad_rows"),
        (["--ids", "hash"], "expected one of"),
        (["--label", "rating >="], "not a SQL expression"),
        (["--label", "rating"], "label: expected 0 or 1, got"),
    ],
)
def test_errors_are_one_line(robe, raw, tmp_path, change, message):
    code, out, err = robe("prepare", "table", raw, tmp_path / "out", *TABLE, *change)
    assert (code, out) == (1, "")
    assert message in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["raw.csv"]


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_nothing_but_a_data_set_is_overwritten(robe, raw, tmp_path, overwrite):
    other = write_table(tmp_path / "other.csv", 50, seed=1)
    before = raw.read_text(), other.read_text()
    for sources, message in (
        ([raw, raw], "is the input"),
        ([raw, other], "is no data set of robe"),  # OUT forgotten
        ([raw, tmp_path], "contains the input"),
    ):
        code, _, err = robe("prepare", "table", *sources, *TABLE, *overwrite)
        assert code == 1
        assert message in err
        assert err.count("\n") == 1
    assert (raw.read_text(), other.read_text()) == before


def test_out_that_cannot_be_made(robe, raw):
    code, _, err = robe("prepare", "table", raw, raw / "out", *TABLE)
    assert code == 1
    assert err.startswith(f"robe: error: out: {raw / 'out'} cannot be made")
    assert ".partial" not in err


def test_a_stray_quote_and_a_leak(robe, raw, tmp_path):
    code, _, err = robe("prepare", "table", raw, tmp_path / "out", *TABLE, "--numeric", "rating")
    assert code == 0
    assert "robe: column 'rating' makes both the label and a feature" in err
    lines = raw.read_text().splitlines()
    lines[200] = lines[200].replace("u", '"u')
    raw.write_text("\n".join(lines))
    code, _, err = robe("prepare", "table", raw, tmp_path / "again", *TABLE)
    assert code == 1
    assert "line 201: a quote is opened and never closed" in err


def test_usage(robe, raw):
    assert robe("prepare", "table", raw, "--label", "rating >= 4", "-c", "user")[0] == 2
    assert robe("prepare", "table", raw, "out", "-c", "user")[0] == 2
    assert robe("prepare", "synthetic", "out")[0] == 2


def test_synthetic(robe, tmp_path):
    code, out, err = robe("prepare", "synthetic", tmp_path / "out", "--rows", 2000, "--scale", 0.001)
    assert (code, err) == (0, "")
    assert "best AUC" in out
    assert PreparedDataset.open(tmp_path / "out").rows("train") == 1600
    code, _, err = robe("prepare", "synthetic", tmp_path / "out", "--rows", 1000, "--scale", 0.001)
    assert code == 1
    assert "--overwrite" in err
    code, out, _ = robe(
        "prepare", "synthetic", tmp_path / "out", "--rows", 1000, "--scale", 0.001, "--overwrite", "--json"
    )
    assert code == 0
    assert json.loads(out)["splits"]["train"]["best_auc"] == pytest.approx(0.8, abs=0.05)


def test_a_killed_run_is_reported_by_the_next(robe, start, tmp_path):
    with start("prepare", "synthetic", tmp_path / "out", "--rows", 2_000_000, "--scale", 0.001) as process:
        while not (tmp_path / ".out.partial").exists():
            assert process.poll() is None
            time.sleep(0.02)
        code, _, err = robe("prepare", "synthetic", tmp_path / "out", "--rows", 100)
        assert code == 1
        assert "another process is writing it" in err
        while not list(tmp_path.glob(".out.partial/train/*")):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    code, _, err = robe("prepare", "synthetic", tmp_path / "out", "--rows", 100, "--scale", 0.001)
    assert code == 0
    assert "interrupted run left behind (train)" in err
    assert PreparedDataset.open(tmp_path / "out", verify=True).manifest.rows_written == 100
