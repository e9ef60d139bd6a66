import json

import pytest
import torch
from torch import nn

from robe.train.checkpoint import Checkpoint, keep_checkpoints, load_checkpoint, save_checkpoint, write_json


def trained(optimizer_class, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1))
    optimizer = optimizer_class(model.parameters(), lr=0.1, **options)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()
    return model, optimizer


def save(folder, model, optimizer, name="step-1"):
    state = {"step": 1, "loader": {"epoch": 0}, "best": None}
    return save_checkpoint(
        folder, name, Checkpoint(model.state_dict(), {"optimizers": [optimizer.state_dict()]}, state)
    )


@pytest.mark.parametrize("optimizer_class", [torch.optim.Adam, torch.optim.SGD, torch.optim.Adagrad])
def test_goes_on_in_the_same_bits(tmp_path, optimizer_class):
    model, optimizer = trained(optimizer_class)
    loaded = load_checkpoint(tmp_path, save(tmp_path, model, optimizer))
    other = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1))
    other_optimizer = optimizer_class(other.parameters(), lr=0.5)
    other.load_state_dict(loaded.model)
    other_optimizer.load_state_dict(loaded.optimizer["optimizers"][0])
    for m, o in ((model, optimizer), (other, other_optimizer)):
        o.zero_grad()
        m(torch.ones(2, 4)).sum().backward()
        o.step()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    assert loaded.state == {"step": 1, "loader": {"epoch": 0}, "best": None}


def test_sparse_adam(tmp_path):
    table = nn.Embedding(5, 2, sparse=True)
    optimizer = torch.optim.SparseAdam(list(table.parameters()), lr=0.1)
    table(torch.tensor([1, 3])).sum().backward()
    optimizer.step()
    loaded = load_checkpoint(tmp_path, save(tmp_path, table, optimizer))
    saved = loaded.optimizer["optimizers"][0]["state"][0]
    assert torch.equal(saved["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])
    assert saved["step"] == 1


def test_model_values_that_are_no_tensors(tmp_path):
    weights = {"weight": torch.ones(2), "_extra_state": {"seed": 3}}
    pointer = save_checkpoint(tmp_path, "a", Checkpoint(weights, {}, {"step": 0}))
    assert load_checkpoint(tmp_path, pointer, model_only=True).model["_extra_state"] == {"seed": 3}


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "missing"])
def test_damage_is_found(tmp_path, file, damage):
    pointer = save(tmp_path, *trained(torch.optim.Adam))
    path = tmp_path / "step-1" / file
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    else:
        content[-2] ^= 1
        path.write_bytes({"cut": content[:-5], "flip": content, "empty": b""}[damage])
    with pytest.raises(ValueError, match=rf"{file} is damaged: .*--resume never"):
        load_checkpoint(tmp_path, pointer)


def test_later_version(tmp_path):
    pointer = save(tmp_path, *trained(torch.optim.SGD))
    path = tmp_path / "step-1" / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 99}))
    import hashlib

    pointer["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match="expected robe-checkpoint version 1, got robe-checkpoint version 99"):
        load_checkpoint(tmp_path, pointer)


def test_an_interrupted_write_leaves_nothing_behind(tmp_path):
    leftover = tmp_path / ".step-1.partial"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")
    save(tmp_path, *trained(torch.optim.SGD))
    save(tmp_path, *trained(torch.optim.SGD), name="step-2")
    assert {p.name for p in tmp_path.iterdir()} == {"step-1", "step-2"}
    keep_checkpoints(tmp_path, {"step-2"})
    assert [p.name for p in tmp_path.iterdir()] == ["step-2"]


def test_write_json_refuses_nan_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="Out of range"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
