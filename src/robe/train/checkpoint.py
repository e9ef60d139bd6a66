"""Checkpoints: a folder of two safetensors files and a JSON file, complete or absent, never half-written.

``state.json`` names the bytes and the SHA-256 of the other files, and a pointer file names the SHA-256 of
``state.json``: whatever is damaged is found before it is used.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

FORMAT = "robe-checkpoint"
VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Args:
        model: the model's ``state_dict()``.
        optimizer: any tree of dicts, lists, tensors and JSON values: optimizer and generator states.
        state: JSON values: where the run stands.
    """

    model: Mapping[str, Any]
    optimizer: Any
    state: dict[str, Any]


def save_checkpoint(folder: Path, name: str, checkpoint: Checkpoint) -> dict[str, Any]:
    """Writes ``folder/name`` and returns the pointer to it, to be saved with ``write_json``."""
    named = {key: value for key, value in checkpoint.model.items() if isinstance(value, Tensor)}
    extra = {key: value for key, value in checkpoint.model.items() if key not in named}
    aliases = _aliases(named)
    weights = {key: _storable(value) for key, value in named.items() if key not in aliases}
    tensors: dict[str, Tensor] = {}
    optimizer = _pack(checkpoint.optimizer, tensors, "")

    partial = folder / f".{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    files = {}
    for file, content in (("model.safetensors", weights), ("optimizer.safetensors", tensors)):
        save_file(content, partial / file)
        files[file] = {"bytes": (partial / file).stat().st_size, "sha256": _digest(partial / file)}
    document = {
        "format": FORMAT, "version": VERSION, "files": files,
        "model_extra": extra, "model_aliases": aliases, "optimizer": optimizer, "state": checkpoint.state,
    }  # fmt: skip
    (partial / "state.json").write_text(json.dumps(document), encoding="utf-8")
    pointer = {"checkpoint": name, "sha256": _digest(partial / "state.json")}
    for path in (*partial.iterdir(), partial):
        _sync(path)
    partial.rename(folder / name)
    _sync(folder)
    return pointer


def load_checkpoint(folder: Path, pointer: Mapping[str, Any], *, model_only: bool = False) -> Checkpoint:
    """Reads the checkpoint that ``pointer`` names, after comparing every digest.

    Raises:
        ValueError: a file is missing, cut short, changed, or of a later version.
    """
    path = folder / str(pointer["checkpoint"])
    state_file = path / "state.json"
    _require_intact(state_file, str(pointer["sha256"]))
    document = json.loads(state_file.read_text(encoding="utf-8"))
    if (document.get("format"), document.get("version")) != (FORMAT, VERSION):
        raise ValueError(
            f"{state_file}: expected {FORMAT} version {VERSION}, got {document.get('format')} version "
            f"{document.get('version')}: read it with the release of robe that wrote it"
        )
    names = ["model.safetensors"] if model_only else ["model.safetensors", "optimizer.safetensors"]
    tensors = {}
    for name in names:
        _require_intact(path / name, document["files"][name]["sha256"])
        try:
            tensors[name] = load_file(path / name)
        except SafetensorError as error:
            raise _damaged(path / name, str(error)) from error
    optimizer = None if model_only else _unpack(document["optimizer"], tensors["optimizer.safetensors"])
    model = tensors["model.safetensors"] | document["model_extra"]
    model |= {name: model[first] for name, first in document.get("model_aliases", {}).items()}
    return Checkpoint(model, optimizer, document["state"])


def keep_checkpoints(folder: Path, names: set[str]) -> None:
    """Removes every checkpoint but ``names``, and what an interrupted process left."""
    for path in folder.iterdir() if folder.exists() else ():
        if path.name not in names:
            shutil.rmtree(path)


def write_json(path: Path, content: Any) -> None:
    """Replaces ``path`` by ``content`` in one step, safely on disk before it is seen."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, content: str) -> None:
    """Replaces ``path`` by ``content`` in one step, safely on disk before it is seen."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(content, encoding="utf-8")
    _sync(partial)
    partial.replace(path)
    _sync(path.parent)


def read_json(path: Path) -> Any:
    """The JSON content of ``path``; ValueError naming the file where it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(path, str(error)) from error


def _aliases(named: Mapping[str, Tensor]) -> dict[str, str]:
    """Names of tensors that stand under an earlier name too, such as an array that two collections share."""
    first: dict[tuple[Any, ...], str] = {}
    aliases = {}
    for name, tensor in named.items():
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() and first.setdefault(place, name) != name:
            aliases[name] = first[place]
    return aliases


def _storable(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()


def _pack(tree: Any, tensors: dict[str, Tensor], path: str) -> Any:
    """``tree`` as JSON; dicts become lists of pairs, for the keys of optimizer states are ints."""
    if isinstance(tree, Tensor):
        tensors[path] = _storable(tree)
        return {"tensor": path}
    if isinstance(tree, Mapping):
        return {"dict": [[key, _pack(value, tensors, f"{path}/{key}")] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        return [_pack(value, tensors, f"{path}/{i}") for i, value in enumerate(tree)]
    return tree


def _unpack(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(tree, list):
        return [_unpack(value, tensors) for value in tree]
    if isinstance(tree, dict):
        if "tensor" in tree:
            return tensors[tree["tensor"]]
        return {key: _unpack(value, tensors) for key, value in tree["dict"]}
    return tree


def _require_intact(path: Path, sha256: str) -> None:
    if not path.exists():
        raise _damaged(path, "the file is missing")
    if _digest(path) != sha256:
        raise _damaged(path, f"its {path.stat().st_size} bytes are not the ones that were written (SHA-256 differs)")


def _damaged(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"{path} is damaged: {reason}. Restore it from a copy, or train anew with resume='never' (--resume never)"
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
