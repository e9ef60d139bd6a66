import json

import torch
from typer.testing import CliRunner

from robe.cli import app
from robe.cli import doctor as doctor_module
from robe.cli.doctor import _kernels


def test_json(robe):
    code, out, err = robe("doctor", "--json")
    assert (code, err) == (0, "")
    findings = json.loads(out)
    assert findings["problems"] == []
    assert findings["packages"]["torch"]
    assert {kernel["device"] for kernel in findings["kernels"]} >= {"cpu"}
    assert all(kernel["reason"] for kernel in findings["kernels"])
    assert findings["extras"]["matplotlib"]["remedy"] == "pip install 'robe[plots]'"


def test_text(robe):
    code, out, _ = robe("doctor")
    assert code == 0
    assert "no problem found" in out
    assert "native" in out or "reference" in out
    assert "torch threads" in out


def test_one_line_of_kernels_a_device_that_is_present():
    kernels = [
        {"op": op, "device": device, "kernel": kernel, "reason": "why"}
        for device in ("cpu", "cuda")
        for op, kernel in (("a", "native"), ("b", "reference"), ("c", "native"))
    ]
    assert _kernels(kernels, "cpu") == "a, c: native (why); b: reference (why)"
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    done = CliRunner().invoke(app, ["doctor"], env={"COLUMNS": "200"})
    lines = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("kernels")]
    assert lines == [f"{device}:" for device in devices]


def test_a_problem_exits_with_1(robe, monkeypatch):
    import sys

    module = sys.modules["robe.cli.doctor"]
    monkeypatch.setattr(module, "MIN_FREE_GB", 1e9)
    code, out, _ = robe("doctor")
    assert code == 1
    assert "GB free" in out
    assert doctor_module is not None
