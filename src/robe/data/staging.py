"""A folder that appears at its place complete, or not at all."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from robe.data.format import FORMAT, MANIFEST

log = logging.getLogger("robe")


@contextmanager
def staged_folder(out: Path, overwrite: bool = False) -> Iterator[Path]:
    """A hidden sibling folder to write into, renamed to ``out`` when the block ends well.

    What a killed run left behind is reported as a warning of the logger ``robe`` and removed. The folder is locked
    while it is written, so a second process with the same ``out`` is refused.

    Args:
        out: the folder to make; its parents are made too.
        overwrite: replace an existing data set ``out`` (after success only); nothing else is. Default False.

    Raises:
        FileExistsError: ``out`` exists and ``overwrite`` is False, or it is no data set of robe.
        OSError: no folder can be made there.
        BlockingIOError: another process is writing the same ``out``.
    """
    out = Path(os.path.abspath(out))
    partial, old = out.with_name(f".{out.name}.partial"), out.with_name(f".{out.name}.old")
    _refuse_existing(out, overwrite)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir(exist_ok=True)
    except OSError as error:
        raise type(error)(
            f"out: {out} cannot be made: {out.parent} is no folder that can be written to ({error.strerror}); "
            "name another output"
        ) from error
    lock = _lock(partial)
    try:
        for leftover in list(partial.iterdir()):
            log.warning("%s: removed what an interrupted run left behind (%s)", partial, leftover.name)
            _remove(leftover)
        if old.exists() and not out.exists():
            log.warning("%s: brought back from %s, where an interrupted run had moved it", out, old)
            old.rename(out)
        _refuse_existing(out, overwrite)
        yield partial
        _sync(partial)
        if old.exists():
            _remove(old)
        if out.exists():
            out.rename(old)
        partial.rename(out)
        _sync(out.parent)
        if old.exists():
            _remove(old)
    except BaseException:
        if partial.exists():
            _remove(partial)
        raise
    finally:
        os.close(lock)


def _refuse_existing(out: Path, overwrite: bool) -> None:
    if not os.path.lexists(out):
        return
    if not _is_dataset(out):
        raise FileExistsError(
            f"out: {out} exists and is no data set of robe (a folder with a {MANIFEST} of format {FORMAT!r}), so that "
            "not even overwrite replaces it; name another output, or remove it yourself"
        )
    if not overwrite:
        raise FileExistsError(f"out: {out} exists; name another output, or overwrite it (overwrite=True, --overwrite)")


def _is_dataset(folder: Path) -> bool:
    # Of any version, and perhaps damaged: that is when people prepare again.
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def _lock(folder: Path) -> int:
    import fcntl  # not on Windows, where data sets can be read but not prepared

    while True:
        folder.mkdir(exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise BlockingIOError(f"{folder}: another process is writing it; wait for it, or stop it") from error
        # The folder may have been renamed by its owner between the open and the lock.
        if folder.exists() and os.path.samestat(os.fstat(descriptor), folder.stat()):
            return descriptor
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
