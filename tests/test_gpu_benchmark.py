"""`make gpu` without a GPU: it says so, and its benchmarks run from end to end in a rehearsal."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "gpu.py", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_it_says_that_there_is_no_gpu():
    done = run("--check")
    assert done.returncode == 1
    assert "torch finds no CUDA device" in done.stderr


def test_a_rehearsal(tmp_path):
    done = run("--device", "cpu", "--tiny", "--out", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads((tmp_path / "gpu.json").read_text())
    groups = {record["group"] for record in written["records"]}
    assert {"tb lookup, uniform", "tb training, zipf", "dlrm inference", "dlrm training"} <= groups
    assert all(record["median_ms"] > 0 for record in written["records"])
    assert "Targets" in done.stdout
    assert (tmp_path / "gpu-dlrm-inference.svg").exists()
