import json

from cli_tools import write_table

from robe.data import TableSpec, prepare_table
from robe.train import load_result


def test_repeats_the_figures_of_the_run(robe, trained):
    result = load_result(trained)
    for split in ("test", "validation"):
        code, out, _ = robe("evaluate", trained, "--split", split, "--json")
        assert code == 0
        found = json.loads(out)
        assert {key: found[key] for key in ("auc", "logloss")} == result.metrics[split]


def test_prints_a_line(robe, trained):
    code, out, err = robe("evaluate", trained)
    assert (code, err) == (0, "")
    values = load_result(trained).metrics["test"]
    assert out.startswith(f"test: AUC {values['auc']:.6f}  logloss {values['logloss']:.6f}  rows ")
    assert out.count("\n") == 1


def test_errors(robe, trained, tmp_path):
    assert "did you mean 'test'" in robe("evaluate", trained, "--split", "tset")[2]
    assert "found no config.yaml" in robe("evaluate", tmp_path)[2]
    assert "no such folder" in robe("evaluate", trained, "--data", tmp_path / "nowhere")[2]
    spec = TableSpec("rating >= 4", categorical=("user",), validation=0.5)
    prepare_table(write_table(tmp_path / "raw.csv", 50), tmp_path / "other", spec)
    code, _, err = robe("evaluate", trained, "--data", tmp_path / "other")
    assert code == 1
    assert "its fields are not those the model was trained on" in err


def test_a_damaged_checkpoint(robe, trained, tmp_path):
    import shutil

    shutil.copytree(trained, tmp_path / "run")
    file = next((tmp_path / "run/checkpoints").glob("*/model.safetensors"))
    file.write_bytes(file.read_bytes()[:-1])
    code, _, err = robe("evaluate", tmp_path / "run")
    assert (code, err.count("\n")) == (1, 1)
    assert "model.safetensors is damaged" in err
