import json
import os
import signal
import time

import pytest
import torch
import yaml
from cli_tools import SMALL

from robe.cli import main
from robe.train import load_run


def wait_for(path, process):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_trains_into_a_run_folder(robe, table_data, tmp_path):
    code, out, err = robe("train", table_data, "--out", tmp_path / "run", "--compression", 2, *SMALL)
    assert (code, err) == (0, "")
    assert "best checkpoint" in out
    assert "AUC" in out
    assert "2x compression" in out
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert config["embedding"]["compression"] == 2.0
    assert config["model"]["top_mlp"] == [8]


def test_json_is_the_result(robe, table_data, tmp_path):
    code, out, _ = robe(
        "train", table_data, "-o", tmp_path / "run", "--embedding", "full", *SMALL, "--learning-rate", 0.05, "--json"
    )
    assert code == 0
    result = json.loads(out)
    assert result == json.loads((tmp_path / "run/result.json").read_text())
    assert result["compression"] == 1.0
    assert result["metrics"]["test"]["auc"] > 0.6


def test_the_saved_configuration_trains_the_same_model(robe, table_data, tmp_path):
    robe("train", table_data, "--out", tmp_path / "a", "--memory", "256B", *SMALL)
    assert robe("train", "--config", tmp_path / "a/config.yaml", "--out", tmp_path / "b")[0] == 0
    a, b = (load_run(tmp_path / name).model.state_dict() for name in "ab")
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_progress_bar_is_on_stderr(robe, table_data, tmp_path):
    code, out, err = robe("train", table_data, "--out", tmp_path, "--compression", 2, *SMALL, "--progress", "--json")
    assert code == 0
    json.loads(out)
    assert "training" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "train.epoch=3"], "unknown key train.epoch; did you mean 'epochs'?"),
        (["--set", "epochs=3"], "expected section.key such as train.epochs"),
        (["--block-size", "100"], "block_size"),
        (["--embedding", "rob"], "embedding.kind: expected 'robe', 'full', 'hashing' or 'capped', got 'rob'"),
        (["--embedding", "full", "--compression", "10"], "full tables have no size to choose"),
        (["--memory", "1MB", "--num-slots", "10"], "at most one of compression, num_slots, memory"),
        (["--memory", "plenty"], "plenty"),
        (["--config", "nowhere.yaml"], "nowhere.yaml: expected a YAML or JSON configuration file, found none"),
        (["--memory", "4000TB"], "out of memory: DefaultCPUAllocator: can't allocate memory"),
        (["--compression", "2", "--resume", "maybe"], "resume: unknown 'maybe'"),
        (["--device", "toaster"], "train.device: expected 'auto', 'cpu' or 'cuda', got 'toaster'"),
        (["--compression", "2", "--optimizer", "sgd", "--learning-rate", "1e30"], "lower the learning rate"),
    ],
)
def test_errors_are_one_line(robe, table_data, tmp_path, arguments, message):
    code, out, err = robe("train", table_data, "--out", tmp_path / "run", *SMALL, *arguments)
    assert code == 1
    assert out == ""
    assert err.startswith("robe: error: ")
    assert message in err
    assert err.count("\n") == 1


def test_data_errors_are_one_line(robe, tmp_path):
    assert "data.path: expected a prepared data set" in robe("train", "--out", tmp_path / "run")[2]
    assert "no such folder" in robe("train", tmp_path / "nowhere", "--out", tmp_path / "run")[2]
    (tmp_path / "data").mkdir()
    code, _, err = robe("train", tmp_path / "data", "--out", tmp_path / "run")
    assert (code, err.count("\n")) == (1, 1)
    assert "manifest.json" in err


def test_a_run_of_one_step_has_no_rate(robe, table_data, tmp_path):
    arguments = ("--compression", 2, *SMALL, "--set", "train.max_steps=1")
    code, out, _ = robe("train", table_data, "--out", tmp_path, *arguments)
    assert code == 0
    assert "nan" not in out
    assert "\N{EN DASH} samples/s; 1 steps" in out


def test_usage_errors_exit_with_2(robe, table_data):
    assert robe("train", table_data)[0] == 2
    assert robe("train", table_data, "--epochs", "many", "--out", "x")[0] == 2
    assert robe("trian")[0] == 2


def test_debug_shows_the_traceback(robe, tmp_path, monkeypatch):
    monkeypatch.delenv("ROBE_DEBUG", raising=False)
    with pytest.raises(FileNotFoundError):
        main(["--debug", "train", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run")])
    assert robe("train", tmp_path / "nowhere", "--out", tmp_path / "run")[0] == 1


def test_finished_and_foreign_runs_are_refused(robe, table_data, trained):
    code, _, err = robe("train", table_data, "--out", trained, "--compression", 2, *SMALL)
    assert code == 1
    assert "holds a finished run" in err
    code, _, err = robe("train", table_data, "--out", trained, "--compression", 2, *SMALL, "--seed", 5)
    assert "differs in embedding.seed: 0 -> 5; train.seed: 0 -> 5" in err


LONG = (*SMALL, "--compression", "2", "--set", "train.epochs=15", "--set", "train.early_stop_patience=none")
OFTEN = ("--set", "train.checkpoint_every=10")


@pytest.fixture(scope="module")
def whole(table_data, tmp_path_factory):
    """The run that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.raises(SystemExit) as exit:
        main(["train", str(table_data), "--out", str(out), *LONG, *OFTEN])
    assert not exit.value.code
    return out


def lines(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "samples_per_second"} for line in found]


@pytest.mark.parametrize("wait", [0.0, 0.2])
def test_killed_with_sigkill_goes_on_to_the_same_bits(robe, start, whole, table_data, tmp_path, wait):
    process = start("train", table_data, "--out", tmp_path / "run", *LONG, *OFTEN)
    wait_for(tmp_path / "run/last.json", process)
    time.sleep(wait)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "run/result.json").exists()
    code, _, err = robe("train", table_data, "--out", tmp_path / "run", *LONG, *OFTEN)
    assert code == 0
    assert "found an unfinished run" in err
    assert "going on from there" in err
    a, b = (load_run(folder).model.state_dict() for folder in (whole, tmp_path / "run"))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert lines(whole) == lines(tmp_path / "run")


def test_killed_before_the_first_checkpoint_starts_clean(robe, start, table_data, tmp_path):
    never = ("--set", "train.eval_every=100000")
    process = start("train", table_data, "--out", tmp_path / "run", *LONG, *never)
    wait_for(tmp_path / "run/metrics.jsonl", process)
    process.kill()
    process.communicate()
    code, _, err = robe("train", table_data, "--out", tmp_path / "run", *LONG, *never)
    assert code == 0
    assert "without a usable checkpoint: starting from the beginning" in err


def test_ctrl_c_says_how_to_go_on(start, table_data, tmp_path):
    process = start("train", table_data, "--out", tmp_path / "run", *LONG, "--set", "train.epochs=10000")
    wait_for(tmp_path / "run/last.json", process)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"the same command goes on from the last checkpoint in {tmp_path / 'run'}" in err
    assert "Traceback" not in err


def test_two_at_once_are_refused(robe, start, table_data, tmp_path):
    process = start("train", table_data, "--out", tmp_path / "run", *LONG, "--set", "train.epochs=10000")
    try:
        wait_for(tmp_path / "run/last.json", process)
        code, _, err = robe("train", table_data, "--out", tmp_path / "run", *LONG, "--overwrite")
        assert code == 1
        assert "another process is training into this folder" in err
    finally:
        process.kill()
        process.communicate()
