"""A folder that appears at its place complete, or not at all."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from robe.data.format import FORMAT, MANIFEST, DataError

log = logging.getLogger("robe")

_JOB = "job.json"
_LOCK = ".lock"  # end of the names of files that parts hold


@contextmanager
def staged_folder(
    out: Path, overwrite: bool = False, job: Mapping[str, Any] | None = None, part: str | None = None
) -> Iterator[Path]:
    """A hidden sibling folder to write into, renamed to ``out`` when the block ends well.

    What a killed run left behind is reported as a warning of the logger ``robe`` and removed; or kept, when it was
    doing the same ``job``. The folder is locked while it is written, so a second process with the same ``out`` is
    refused.

    Args:
        out: the folder to make; its parents are made too.
        overwrite: replace an existing data set ``out`` (after success only); nothing else is. Default False.
        job: JSON values that decide every byte of the result. With it, the folder is also kept after an error or an
            interruption, for the same job to go on, and stays in ``job.json``. Default None.
        part: a name, for a share of the job: other parts may write at the same time, and the folder is not renamed
            at the end. Default None.

    Raises:
        FileExistsError: ``out`` exists and ``overwrite`` is False, or it is no data set of robe.
        DataError: ``out`` is a URL.
        OSError: no folder can be made there.
        BlockingIOError: another process is writing the same ``out``.
    """
    if re.match(r"[a-z][a-z0-9]+:/", str(out)):
        raise DataError(f"out: expected a local folder, got the URL {out}; write to a disk and upload the folder whole")
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
    lock = _lock(partial, shared=part is not None)
    try:
        _settle(partial, job, part)
        if part is not None:
            with _part_lock(partial, part):
                yield partial
            return
        if old.exists() and not out.exists():
            log.warning("%s: brought back from %s, where an interrupted run had moved it", out, old)
            old.rename(out)
        _refuse_existing(out, overwrite)
        yield partial
        for file in partial.glob(f"*{_LOCK}"):
            file.unlink(missing_ok=True)
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
        if partial.exists() and part is None and (job is None or not _has_work(partial)):
            _remove(partial)
        raise
    finally:
        os.close(lock)


def has_job(folder: Path, job: Mapping[str, Any]) -> bool:
    """Whether ``folder`` is the result of ``job``, or its beginning."""
    return bool(_read_json(folder / _JOB) == json.loads(json.dumps(job)))


def keep_inputs(out: Path, inputs: Sequence[Path]) -> None:
    """Raises DataError when ``out`` is, or contains, one of ``inputs``, which would be lost when it is replaced."""
    made = out.resolve()
    for path in inputs:
        if path.resolve().is_relative_to(made):
            what = "is" if path.resolve() == made else "contains"
            raise DataError(f"out: {out} {what} the input {path}, which would be lost; name another output")


def _settle(partial: Path, job: Mapping[str, Any] | None, part: str | None) -> None:
    """Leaves in ``partial`` what belongs to ``job``, and the job itself."""
    file = partial / _JOB
    wanted = None if job is None else json.loads(json.dumps(job))
    if job is not None and has_job(partial, job):
        return
    if part is not None and any(not path.name.endswith(_LOCK) for path in partial.iterdir()):
        if _read_json(file) == wanted:  # another part has just begun
            return
        raise FileExistsError(
            f"{partial}: it has parts of another job (other options, other or changed files); finish that one, or "
            "remove the folder"
        )
    for leftover in sorted(partial.iterdir()) if part is None else ():
        log.warning("%s: removed what an interrupted run left behind (%s)", partial, leftover.name)
        _remove(leftover)
    if wanted is not None:
        temporary = partial / f"{uuid.uuid4()}{_LOCK}"
        temporary.write_text(json.dumps(wanted), encoding="utf-8")
        temporary.rename(file)


def _has_work(partial: Path) -> bool:
    files = (path for path in partial.rglob("*") if path.is_file())
    return any(file.name != _JOB and not file.name.endswith(_LOCK) for file in files)


@contextmanager
def _part_lock(partial: Path, part: str) -> Iterator[None]:
    import fcntl

    file = partial / f"{part}{_LOCK}"
    with file.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(f"{partial}: another process is doing part {part}") from error
        yield
        file.unlink()


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
    content = _read_json(folder / MANIFEST)
    return isinstance(content, dict) and content.get("format") == FORMAT


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _lock(folder: Path, shared: bool) -> int:
    import fcntl  # not on Windows, where data sets can be read but not prepared

    while True:
        folder.mkdir(exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
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
