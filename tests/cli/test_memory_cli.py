import pytest
import torch

import robe.train


@pytest.mark.parametrize("error", [MemoryError("no room"), torch.OutOfMemoryError("no room")])
def test_a_lack_of_memory_is_one_line(robe, monkeypatch, tmp_path, error):
    code, out, err = failing_with(error, robe, monkeypatch, tmp_path)
    assert (code, out) == (1, "")
    assert err.startswith("robe: error: out of memory: no room; ")
    assert err.count("\n") == 1


def test_other_runtime_errors_keep_their_traceback(robe, monkeypatch, tmp_path):
    with pytest.raises(RuntimeError, match="a bug"):
        failing_with(RuntimeError("a bug"), robe, monkeypatch, tmp_path)


def failing_with(error, call, monkeypatch, tmp_path):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(robe.train, "run", fail)
    return call("train", tmp_path, "--out", tmp_path / "run")
