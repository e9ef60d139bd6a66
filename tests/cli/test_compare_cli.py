import json
import re
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from robe.cli.compare import compare
from robe.data import SyntheticSpec, generate

TINY = ["train.epochs=1", "train.batch_size=512", "model.bottom_mlp=[8]", "model.top_mlp=[8]", "train.threads=1"]

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(compare)


def robe_compare(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare_cli") / "data"
    generate(SyntheticSpec(rows=3000, num_dense=2, cardinalities=(50, 3000, 400), seed=3), folder)
    return folder


@pytest.fixture
def arguments(data, tmp_path):
    sets = [part for text in TINY for part in ("--set", text)]
    return [data, "--out", tmp_path / "out", "--compression", "10,50", "--block-size", "1,4", *sets]


def test_table_files_and_page(arguments, tmp_path):
    result = robe_compare(*arguments, "--methods", "full,robe", "--seeds", 2, "--progress")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert sum(re.match(r"robe +[14] ", line) is not None for line in lines) == 4
    assert "± is the sample standard deviation over seeds." in result.stdout
    assert re.search(r"robe Z=\d with [\d,]+ parameters instead of 55,2", result.stdout)
    assert "run 10/10 robe Z=4 50\N{MULTIPLICATION SIGN} seed 1" in result.stderr
    for name in ("results.csv", "summary.csv", "results.json", "index.html"):
        assert (tmp_path / "out" / name).stat().st_size > 0


def test_runs_of_one_step_have_no_rate(arguments, tmp_path):
    result = robe_compare(*arguments, "--set", "train.max_steps=1")
    assert result.exit_code == 0, result.stderr
    content = json.loads((tmp_path / "out/results.json").read_text())
    assert [record["samples_per_second"] for record in content["records"]] == [None] * 5
    assert (tmp_path / "out/index.html").exists()


def test_json_is_json_alone(arguments):
    result = robe_compare(*arguments[:3], *arguments[7:], "--methods", "hashing,capped", "--compression", 5, "--json")
    assert result.exit_code == 0, result.stderr
    content = json.loads(result.stdout)
    assert [s["arm"]["kind"] for s in content["summaries"]] == ["hashing", "capped"]


def test_failed_runs_end_in_exit_code_1(arguments):
    wild = ["--methods", "robe", "--set", "train.optimizer=sgd", "--set", "train.learning_rate=1.0e+30"]
    result = robe_compare(*arguments, *wild, "--keep-going")
    assert result.exit_code == 1
    assert "4 of 4 runs failed" in result.stdout


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--methods", "ful"], "did you mean 'full'"),
        (["--tune", "embedding.init_std=0.1"], "two or more different values"),
        (["--set", "train.epoch=1"], "did you mean 'epochs'"),
        (["--seeds", "0"], "expected a positive int"),
        (["--config", "none.yaml"], r"^none\.yaml: expected a YAML or JSON configuration file, found none$"),
    ],
)
def test_mistakes_write_nothing(arguments, tmp_path, extra, message):
    result = robe_compare(*arguments, *extra)
    assert re.search(message, str(result.exception))
    assert not (tmp_path / "out").exists()


def test_numbers_that_are_none_are_a_usage_error(arguments):
    result = robe_compare(*arguments, "--compression", "ten")
    assert result.exit_code == 2
    assert "expected numbers" in re.sub(r"\s+", " ", result.stderr)


def test_help_shows_examples():
    result = robe_compare("--help")
    assert result.exit_code == 0
    assert "robe compare data/ml" in result.stdout


def test_error_of_the_program_is_one_line(tmp_path):
    command = [sys.executable, "-c", "from robe.cli import main; main()", "compare", "nowhere", "--out", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(r"robe: error: nowhere: [^\n]+\n", done.stderr)
