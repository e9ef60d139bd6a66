import json

from robe.cli import doctor as doctor_module


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
    assert "reference" in out
    assert "torch threads" in out


def test_a_problem_exits_with_1(robe, monkeypatch):
    import sys

    module = sys.modules["robe.cli.doctor"]
    monkeypatch.setattr(module, "MIN_FREE_GB", 1e9)
    code, out, _ = robe("doctor")
    assert code == 1
    assert "GB free" in out
    assert doctor_module is not None
