"""The command line as a whole: help, version, speed."""

import re
import subprocess
import sys
import time
from importlib.metadata import version

import pytest

COMMANDS = ("prepare", "train", "recipe", "evaluate", "predict", "compare", "doctor")


def test_help_lists_every_command(robe):
    code, out, _ = robe("--help")
    assert code == 0
    for command in COMMANDS:
        assert re.search(rf"\b{command}\b", out)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in ("prepare", "recipe")])
def test_every_help_has_an_example_on_a_line_of_its_own(robe, command):
    code, out, _ = robe(command, "--help")
    assert code == 0
    assert re.search(rf"^\W*robe {command}\b", out, flags=re.MULTILINE)


def test_version(robe):
    assert robe("--version") == (0, f"robe {version('robe')}\n", "")


def test_no_arguments_show_the_help(robe):
    code, out, err = robe()
    assert code == 2
    assert "train" in out + err


def test_help_does_not_wait_for_torch():
    code = "import sys, robe.cli; print([m for m in ('torch', 'polars', 'pyarrow', 'pydantic') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_help_is_quick(start):
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        process = start("--help")
        process.communicate()
        assert process.returncode == 0
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 1.5
