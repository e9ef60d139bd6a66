"""A run folder: its files, its lock, and what is found in it before a run starts."""

import fcntl
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

from robe.train.checkpoint import Checkpoint, keep_checkpoints, load_checkpoint, read_json, save_checkpoint, write_json
from robe.train.config import RunConfig, differences, load_config

log = logging.getLogger("robe")

Resume = Literal["auto", "never", "must"]
_FILES = ("result.json", "last.json", "best.json", "metrics.jsonl", "environment.json", "dataset.json")


class RunFolder:
    """The files of one run under ``path``; docs/training.md describes them.

    Args:
        path: the folder; made by ``lock`` when absent.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.dataset = self.path / "dataset.json"
        self.environment = self.path / "environment.json"
        self.metrics = self.path / "metrics.jsonl"
        self.best = self.path / "best.json"
        self.last = self.path / "last.json"
        self.result = self.path / "result.json"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the folder for this process; a lock of a killed process is gone with it.

        Raises:
            FileExistsError: another process holds it, or the folder holds files that are no run.
        """
        if self.path.is_file():
            raise FileExistsError(f"{self.path}: expected a folder for the run, found a file")
        if self.path.exists() and not self.config.exists():
            strangers = sorted(p.name for p in self.path.iterdir() if not p.name.startswith("."))
            if strangers:
                raise FileExistsError(
                    f"{self.path} is no run folder, yet holds {strangers[:3]}: choose a new or an empty folder"
                )
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FileExistsError(
                    f"{self.path}: another process is training into this folder; wait for it, or choose another folder"
                ) from None
            yield

    def find(self, config: RunConfig, digest: str, resume: Resume, overwrite: bool) -> Checkpoint | None:
        """Looks at what an earlier process left, and clears the folder unless it can be resumed.

        Args:
            config: the resolved configuration about to run.
            digest: identity of the data set about to be used.
            resume: see ``robe.train.run``.
            overwrite: see ``robe.train.run``.

        Returns:
            The checkpoint to go on from, or None to start at step 0.

        Raises:
            FileExistsError: the folder holds a finished run, or one with another configuration or data set.
            FileNotFoundError: ``resume="must"`` and there is nothing to go on from.
            ValueError: the checkpoint is damaged.
        """
        if overwrite or not self.config.exists():
            if resume == "must":
                raise FileNotFoundError(f"{self.path}: no run to go on with; start it with resume='auto'")
            self.clear()
            return None
        self._require_same(config, digest)
        if self.result.exists():
            raise FileExistsError(
                f"{self.path} holds a finished run: choose another folder, "
                "or replace it with overwrite=True (--overwrite)"
            )
        if resume == "never" or not self.last.exists():
            if resume == "must":
                raise FileNotFoundError(f"{self.path}: the run in it stopped before its first checkpoint")
            log.info(
                "found an unfinished run in %s without a usable checkpoint: starting from the beginning", self.path
            )
            self.clear()
            return None
        pointer = read_json(self.last)
        checkpoint = load_checkpoint(self.checkpoints, pointer)
        log.info("found an unfinished run in %s at step %d: going on from there", self.path, checkpoint.state["step"])
        best = checkpoint.state["best"]
        # A process may die between its two pointers: the state inside the checkpoint decides which one is best.
        if best is not None:
            write_json(self.best, best["pointer"] or pointer)
        self.prune()
        return checkpoint

    def save(self, name: str, checkpoint: Checkpoint, *, best: bool) -> dict[str, Any]:
        """Writes a checkpoint, points to it, removes those that nothing points to any more; returns the pointer."""
        pointer = save_checkpoint(self.checkpoints, name, checkpoint)
        if best:
            write_json(self.best, pointer)
        write_json(self.last, pointer)
        self.prune()
        return pointer

    def prune(self) -> None:
        """Removes the checkpoints that neither pointer names."""
        pointers = [read_json(path) for path in (self.best, self.last) if path.exists()]
        keep_checkpoints(self.checkpoints, {pointer["checkpoint"] for pointer in pointers})

    def clear(self) -> None:
        """Removes the files of a run, and only those."""
        for name in _FILES:
            (self.path / name).unlink(missing_ok=True)
        keep_checkpoints(self.checkpoints, set())
        for path in self.tensorboard.glob("events.*"):
            path.unlink()
        self.config.unlink(missing_ok=True)  # last: with it, a half-cleared folder is still known as a run

    def _require_same(self, config: RunConfig, digest: str) -> None:
        found = differences(load_config(self.config), config)
        if self.dataset.exists() and read_json(self.dataset)["digest"] == digest:
            found = [line for line in found if not line.startswith("data.path")]  # the data set has only moved
        elif self.dataset.exists():
            found.append("the content of the data set")
        if found:
            raise FileExistsError(
                f"{self.path} holds a run that differs in {'; '.join(found)}: choose another folder, "
                "or replace it with overwrite=True (--overwrite)"
            )


class MetricsLog:
    """``metrics.jsonl``: one JSON object a line, only ever appended to.

    Args:
        path: the file.
        offset: bytes to keep of it, from the checkpoint a run resumes from; lines after it will be written again.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        size = path.stat().st_size if path.exists() else 0
        if size < offset:
            raise ValueError(
                f"{path} is damaged: expected at least {offset} bytes, found {size}; train anew with resume='never'"
            )
        self._file = path.open("ab")
        self._file.truncate(offset)
        self._path = path

    def write(self, line: Mapping[str, Any]) -> None:
        """Appends a line; NaN becomes null."""
        text = json.dumps(jsonable(line), allow_nan=False)
        self._file.write(text.encode() + b"\n")
        self._file.flush()

    def sync(self) -> int:
        """Makes the lines safe on disk and returns their bytes."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def lines(self) -> list[dict[str, Any]]:
        """Everything written so far."""
        return [json.loads(line) for line in self._path.read_text(encoding="utf-8").splitlines()]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def jsonable(value: Any) -> Any:
    """``value``, with None in place of NaN, which JSON does not have; dicts and lists all through."""
    if isinstance(value, Mapping):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
