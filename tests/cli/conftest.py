import subprocess
import sys

import pytest
from cli_tools import SMALL, write_table

from robe.cli import main
from robe.data import TableSpec, prepare_table


@pytest.fixture(scope="session")
def table_data(tmp_path_factory):
    """A prepared data set with a vocabulary: splits of about 2,400, 300 and 300 rows."""
    folder = tmp_path_factory.mktemp("cli")
    spec = TableSpec(
        "rating >= 4", categorical=("user", "movie"), multi=("genres:|",), numeric=("age",),
        validation=0.1, test=0.1, ids="vocabulary",
    )  # fmt: skip
    prepare_table(write_table(folder / "raw.csv", 3000), folder / "data", spec)
    return folder / "data"


@pytest.fixture
def robe(capfd):
    """Runs the command line in this process: (exit code, stdout, stderr)."""

    def call(*arguments):
        with pytest.raises(SystemExit) as exit:
            main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        return exit.value.code or 0, out, err

    return call


@pytest.fixture(scope="session")
def start():
    """Starts the command line in a process of its own."""

    def popen(*arguments, **options):
        command = [sys.executable, "-c", "from robe.cli import main; main()", *map(str, arguments)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)

    return popen


@pytest.fixture(scope="session")
def trained(table_data, tmp_path_factory):
    """A finished run on ``table_data``."""
    out = tmp_path_factory.mktemp("cli") / "run"
    with pytest.raises(SystemExit) as exit:
        main(["train", str(table_data), "--out", str(out), "--compression", "2", *SMALL])
    assert not exit.value.code
    return out
