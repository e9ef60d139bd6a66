import json

import pytest
from cli_tools import SMALL

from robe.data import PreparedDataset


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    from robe.data import generate_kaggle

    return generate_kaggle(tmp_path_factory.mktemp("criteo") / "train.txt", 4000, scale=0.0005)


def test_from_raw_lines_to_a_trained_model(robe, raw, tmp_path):
    data, run = tmp_path / "data", tmp_path / "run"
    code, out, err = robe("prepare", "criteo-kaggle", raw, data)
    assert (code, err) == (0, "")
    assert "26 fields (0 multi-valued), any int64 id, no vocabulary; 13 numeric features" in out
    assert "4,000 rows read, 0 malformed" in out
    small = ("--epochs", "1", "--set", "model.embedding_dim=4", "--set", "model.bottom_mlp=[8]",
             "--set", "model.top_mlp=[8]", "--threads", "1", "--batch-size", "500")  # fmt: skip
    code, _, err = robe("train", data, "--out", run, *small)
    assert code == 1
    assert "give embedding.num_slots or embedding.memory" in err
    assert robe("train", data, "--out", run, "--memory", "8KB", *small)[0] == 0
    assert json.loads((run / "result.json").read_text())["parameters"]["embedding"] == 2000
    assert robe("evaluate", run)[0] == 0


def test_raw_lines_are_predicted(robe, raw, tmp_path):
    """Also without labels; as the same lines are that were prepared by the same bounds."""
    data, run, other = tmp_path / "data", tmp_path / "run", tmp_path / "other"
    options = ("--ids", "vocabulary", "--numeric", "minmax")
    assert robe("prepare", "criteo-kaggle", raw, data, "--vocabulary-from", "train", *options)[0] == 0
    assert robe("train", data, "--out", run, "--compression", "10", *SMALL)[0] == 0
    lines = raw.read_text().splitlines(keepends=True)
    first, _, second = PreparedDataset.open(data).manifest.splits.values()
    (tmp_path / "new.txt").write_text("".join(lines[first.rows : first.rows + second.rows]))
    (tmp_path / "test.txt").write_text("".join(line.partition("\t")[2] for line in lines[first.rows :][: second.rows]))
    found = []
    for source in (data, tmp_path / "new.txt", tmp_path / "test.txt"):
        assert robe("predict", run, source, "-o", tmp_path / "p.csv", "--overwrite")[0] == 0
        found.append((tmp_path / "p.csv").read_bytes())
    assert found[0] == found[1] == found[2]
    # Prepared for itself, the file has other numbers: other bounds, another vocabulary.
    assert robe("prepare", "criteo-kaggle", tmp_path / "new.txt", other, *options, "--split", "none")[0] == 0
    code, _, err = robe("predict", run, other, "--split", "train", "-o", tmp_path / "q.csv")
    assert (code, "robe predict does" in err) == (1, True)


def test_numbers_of_other_bounds_are_refused(robe, raw, tmp_path):
    data, run, other = tmp_path / "data", tmp_path / "run", tmp_path / "other"
    assert robe("prepare", "criteo-kaggle", raw, data, "--numeric", "minmax")[0] == 0
    assert robe("train", data, "--out", run, "--memory", "8KB", *SMALL)[0] == 0
    lines = raw.read_text().splitlines(keepends=True)
    (tmp_path / "new.txt").write_text("".join(lines[:100]))
    assert robe("prepare", "criteo-kaggle", tmp_path / "new.txt", other, "--numeric", "minmax")[0] == 0
    code, _, err = robe("predict", run, other, "-o", tmp_path / "p.csv")
    assert (code, "numbers were scaled by other bounds" in err) == (1, True)


def test_the_finished_command_again(robe, raw, tmp_path):
    assert robe("prepare", "criteo-kaggle", raw, tmp_path / "out")[0] == 0
    code, out, err = robe("prepare", "criteo-kaggle", raw, tmp_path / "out")
    assert code == 0
    assert "nothing to do" in err
    assert "4,000 rows read" in out
    assert robe("prepare", "criteo-kaggle", raw, tmp_path / "out", "--split", "none")[0] == 1


def test_vocabulary_options_and_json(robe, raw, tmp_path):
    code, out, _ = robe(
        "prepare", "criteo-kaggle", raw, tmp_path / "out", "--ids", "vocabulary", "--order", "frequency",
        "--min-count", "2", "--numeric", "minmax", "--split", "random-9-1-8-2", "--workers", "1", "--json",
    )  # fmt: skip
    assert code == 0
    summary = json.loads(out)
    assert {name: info["rows"] for name, info in summary["splits"].items()} == {
        "train": 2880,
        "validation": 720,
        "test": 400,
    }
    spec = PreparedDataset.open(tmp_path / "out").manifest.spec
    assert (spec["order"], spec["min_count"], spec["numeric_transform"]) == ("frequency", 2, "minmax")


def test_parts_and_days(robe, tmp_path):
    assert robe("data", "generate", "criteo-tb", tmp_path / "tb", "--rows", 500, "--days", 3, "--scale", 0.001)[0] == 0
    days = [tmp_path / "tb" / f"day_{day}" for day in range(3)]
    for part in ("2/2", "1/2"):
        code, _, err = robe("prepare", "criteo-tb", *days, tmp_path / "out", "--part", part)
        assert code == 0
        assert f"part {part} is done" in err
        assert not (tmp_path / "out").exists()
    code, out, err = robe("prepare", "criteo-tb", *days, tmp_path / "out")
    assert code == 0
    assert "500 rows read" in out
    assert "going on from 3 finished pieces" in err
    assert robe("prepare", "criteo-tb", *days, tmp_path / "other", "--part", "half")[0] == 2
    assert robe("prepare", "criteo-tb", days[0])[0] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--split", "dlrm"], "split: unknown 'dlrm'; did you mean 'dlrm-kaggle'"),
        (["--ids", "hash"], "ids: unknown 'hash'"),
        (["--min-count", "3"], "only for ids='vocabulary'"),
        (["--part", "3/2"], "part: expected i/n"),
    ],
)
def test_errors_are_one_line(robe, raw, tmp_path, change, message):
    code, _, err = robe("prepare", "criteo-kaggle", raw, tmp_path / "out", *change)
    assert code == 1
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_generate_verify_stats(robe, tmp_path):
    file, data = tmp_path / "train.txt", tmp_path / "data"
    code, out, _ = robe("data", "generate", "criteo-kaggle", file, "--rows", 2000, "--scale", 0.001)
    assert (code, out.startswith(f"{file}: 2,000 lines")) == (0, True)
    assert robe("data", "generate", "criteo-kaggle", file, "--rows", 2000)[0] == 1
    assert robe("prepare", "criteo-kaggle", file, data)[0] == 0
    code, out, _ = robe("data", "verify", data)
    assert code == 0
    assert "ok      SHA-256 of the shards: 3 shards" in out
    assert "-       26 token counts of the paper's Appendix C: another file: 2,000 lines" in out
    code, out, _ = robe("data", "verify", data, "--json")
    assert json.loads(out)["checks"][0]["passed"] is True
    code, out, _ = robe("data", "stats", data, "--plots", tmp_path / "plots")
    assert code == 0
    assert "C26" in out
    assert (tmp_path / "plots" / "frequency.svg").exists()
    code, out, _ = robe("data", "stats", data, "--json")
    assert len(json.loads(out)["fields"]) == 26
    shard = next((data / "rows").iterdir())
    content = bytearray(shard.read_bytes())
    content[-9] ^= 1
    shard.write_bytes(content)
    code, out, _ = robe("data", "verify", data)
    assert code == 1
    assert "FAILED  SHA-256 of the shards" in out


def test_small_data_sets(robe, tmp_path):
    code, _, err = robe("prepare", "frappe", tmp_path, tmp_path / "out")
    assert code == 1
    assert "neither frappe.train.libfm nor train.libfm" in err
    code, _, err = robe("prepare", "movielens", tmp_path, tmp_path / "out")
    assert code == 1
    assert "no ratings.dat in it" in err
    code, _, err = robe("prepare", "avazu", tmp_path / "train.csv", tmp_path / "out")
    assert code == 1
    assert "no such file" in err
