"""From Criteo's raw files to a prepared data set: pieces by all cores, resumable after a kill."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from robe.data.criteo.codes import FOLDER as BETWEEN
from robe.data.criteo.codes import Distinct
from robe.data.criteo.columns import DENSE_NAMES, FIELD_NAMES, NUM_DENSE, NUM_FIELDS
from robe.data.criteo.encode import Scale, assign_piece, encode_piece
from robe.data.criteo.journal import Journal, Piece
from robe.data.criteo.raw import PIECE_BYTES, RawFile
from robe.data.criteo.run import Runner, Threads
from robe.data.criteo.spec import CriteoSpec
from robe.data.criteo.splits import Splitter, counts_first
from robe.data.criteo.totals import BadLines, estimate, scale_of, sources_of, splits_of
from robe.data.criteo.vocabulary import DEFINITION, Vocabulary, make_vocabulary
from robe.data.criteo.work import DONE, READ, ROWS, Task, Unit, count_unit, read_unit, require_rows, split_rows
from robe.data.dataset import PreparedDataset
from robe.data.format import CREATED_WITH, DataError, FieldInfo, Manifest
from robe.data.progress import bar
from robe.data.quarantine import Quarantine
from robe.data.staging import has_job, keep_inputs, staged_folder
from robe.data.writer import sync, write_manifest

log = logging.getLogger("robe")

_FORMAT: Final = 1  # of what stands in the folder of an unfinished run
_ROW: Final = 4 + 4 * NUM_DENSE + 8 * NUM_FIELDS  # bytes of a row on disk
_CODED_ROW: Final = 5 + 4 * NUM_DENSE + 4 * NUM_FIELDS + 80  # and its distinct tokens, about
_DIRECT: Final = "the token, a hexadecimal number below 2^32; a missing token is 0"


def prepare_criteo(
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    spec: CriteoSpec,
    *,
    workers: int | None = None,
    part: tuple[int, int] | None = None,
    ray: str | None = None,
    overwrite: bool = False,
    progress: bool = False,
    piece_bytes: int = PIECE_BYTES,
) -> PreparedDataset | None:
    """Makes a prepared data set of Criteo's raw files, about 0.1 GB of memory per worker whatever their size.

    A run that was killed or failed leaves its finished pieces beside ``out``; the same call goes on from them, and ends
    in the same bytes. After one that was finished it does nothing, and returns what is there. With a vocabulary the
    rows pass over the disk once more, and merging takes up to 1 GB.

    Args:
        sources: ``train.txt``, or ``day_0`` to ``day_23``; also ``.gz``; local, or URLs that fsspec knows.
        out: the folder to make, on a local or shared file system.
        spec: what to make.
        workers: threads. Default None: one more than there are processors, since one waits for the disk.
        part: (i, n) does every n-th piece, from the i-th, counted from 1, and returns None; any machine that sees
            ``out`` may do it, at the same time as others. The call without ``part`` then finishes: it checks the
            pieces, and does what is missing. Default None.
        ray: address of a Ray cluster whose machines see the sources and ``out``; ``"local"`` starts one. Default None.
        overwrite: replace an existing data set ``out`` (after success only); nothing else is. Default False.
        progress: show progress bars on standard error. Default False.
        piece_bytes: text of a piece, and so of a shard. Default 32 MB.

    Returns:
        The open data set. Malformed lines are in its ``quarantine.tsv``, and counted in its manifest.

    Raises:
        FileNotFoundError: a source is not there.
        FileExistsError: ``out`` exists, of other files or options, and ``overwrite`` is False; or it is no data set of
            robe.
        BlockingIOError: another process is writing the same ``out``.
        DataError: a source cannot be used, or too many lines are malformed.
        OSError: the disk has too little room, or is full.
    """
    given = [sources] if isinstance(sources, str | Path) else sources
    # Absolute, for workers with another working folder.
    paths = tuple(str(path) if "://" in str(path) else os.path.abspath(path) for path in given)
    keep_inputs(Path(out), [Path(path) for path in paths if "://" not in path])
    if not paths:
        raise DataError("sources: expected at least one file, got none")
    if part is not None and not 1 <= part[0] <= part[1]:
        raise DataError(f"part: expected i/n with 1 <= i <= n, got {part[0]}/{part[1]}")
    if part is not None and spec.two_passes:
        raise DataError("part: only where one pass is enough; not with ids='vocabulary' or numeric_transform='minmax'")
    if spec.recipe == "criteo-tb" and spec.split == "mlperf-tb" and len(paths) != 24:
        log.warning("split mlperf-tb: expected the 24 files day_0 to day_23, got %d; the last is split", len(paths))
    files = [RawFile(path, piece_bytes) for path in paths]
    _require_order(files)
    job = {
        "format": _FORMAT,
        "spec": {key: value for key, value in asdict(spec).items() if key != "max_bad_rows"},
        "files": [file.facts() for file in files],
        "piece_bytes": piece_bytes,
    }
    out = Path(out)
    if not overwrite and has_job(out, job):
        dataset = PreparedDataset.open(out)
        if dataset.manifest.spec == asdict(spec):
            log.info("%s is complete, of the same files and options: nothing to do", out)
            return None if part else dataset
    runner: Runner
    if ray is None:
        runner = Threads(workers)
    else:
        from robe.data.criteo.cluster import Ray

        runner = Ray(ray)
    with staged_folder(out, overwrite, job, part and f"part-{part[0]}-of-{part[1]}") as folder, _room(folder):
        run = _Run(folder, spec, files, runner, progress)
        run.require_room()
        run.count()
        run.read(part)
        if part is not None:
            return None
        run.finish()
    return PreparedDataset.open(out)


def _size(n: float) -> str:
    return f"{n / 1e6:,.0f} MB" if n < 1e10 else f"{n / 1e9:,.0f} GB"


def _require_order(files: Sequence[RawFile]) -> None:
    """Days decide the split, and a shell gives ``day_*`` as day_0, day_1, day_10."""
    days = [re.fullmatch(r"day_(\d+)(\.gz)?", file.name) for file in files]
    for before, day in pairwise(days):
        if before and day and int(before[1]) >= int(day[1]):
            raise DataError(
                f"sources: expected days in their order, got {day[0]} after {before[0]}; the shell keeps it in "
                f"day_{{0..23}}{day[2] or ''}, but not in day_*"
            )


@contextmanager
def _room(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise OSError(
            error.errno,
            f"out: the disk is full, or a file may grow no further ({error.strerror}), in {folder.parent}; make room "
            "and run the same command again: finished shards are kept",
        ) from error


class _Run:
    """The steps of one preparation, each of which goes on where an earlier process left it."""

    def __init__(
        self, folder: Path, spec: CriteoSpec, files: Sequence[RawFile], runner: Runner, progress: bool
    ) -> None:
        self._folder = folder
        self._spec = spec
        self._files = files
        self._runner = runner
        self._progress = progress
        self._paths = tuple(file.path for file in files)
        self._piece_bytes = files[0].piece_bytes
        self._counts: tuple[tuple[int, ...], ...] | None = None

    def require_room(self) -> None:
        """Raises OSError when the disk has too little room for what is not yet there."""
        estimates = [estimate(file) for file in self._files]
        rows = sum(of_file for of_file, _ in estimates)
        need = rows * (_ROW + (_CODED_ROW if self._spec.two_passes else 0))
        if not (self._spec.two_passes or counts_first(self._spec) or self._spec.split == "none"):
            # Pieces that are cut into splits at the end are there twice for a while.
            need += min(rows, 2 * max(of_piece for _, of_piece in estimates)) * _ROW
        there = sum(file.stat().st_size for file in self._folder.rglob("*") if file.is_file())
        free = shutil.disk_usage(self._folder).free
        if need - there > free:
            raise OSError(
                f"out: about {_size(need)} are needed for about {rows:,.0f} rows, {_size(there + free)} "
                f"can be had in {self._folder.parent}; free some, or name another output"
            )

    def count(self) -> None:
        """Counts the lines of all pieces, where the split must be known while they are read."""
        if not counts_first(self._spec):
            return
        file = self._folder / "lines.json"
        if not file.exists():
            units = self._units(range(len(self._files)))
            arguments = [(self._paths, self._piece_bytes, unit) for unit in units]
            counts: list[list[int]] = [[] for _ in self._files]
            with (
                bar("counting lines", sum(map(self._bytes, units)), "B", self._progress) as advance,
                closing(self._runner.map(count_unit, arguments)) as results,
            ):
                for unit, counted in zip(units, results, strict=True):
                    counts[unit[0]] += counted
                    advance(self._bytes(unit))
            partial = self._folder / f"{uuid.uuid4()}.lock"  # a name that no other part has
            partial.write_text(json.dumps(counts), encoding="utf-8")
            partial.rename(file)
        self._counts = tuple(tuple(counts) for counts in json.loads(file.read_text(encoding="utf-8")))

    def read(self, part: tuple[int, int] | None) -> None:
        """Reads the pieces that are not done."""
        journal = Journal(self._folder, READ if self._spec.two_passes else DONE)
        finished = journal.verified() if part is None else journal.read()
        if finished:
            log.info("going on from %d finished pieces in %s", len(finished), self._folder)
        done = frozenset(piece.key for piece in finished)
        task = Task(self._folder, self._spec, self._paths, self._piece_bytes, self._counts)
        units = self._units(range(len(self._files)))
        units = units[part[0] - 1 :: part[1]] if part else units
        left = [unit for unit in units if unit not in done]
        checked = BadLines(self._spec.max_bad_rows, self._files, finished)
        total = sum(self._bytes(unit) for unit in units)
        with bar("reading", total, "B", self._progress) as advance:
            advance(total - sum(self._bytes(unit) for unit in left))
            here = isinstance(self._runner, Threads)  # other processes cannot move this one's bar
            arguments = [(task, unit, done, *([advance] if here else [])) for unit in left]
            with closing(self._runner.map(read_unit, arguments)) as results:
                for unit, pieces in zip(left, results, strict=True):
                    if not here:
                        advance(self._bytes(unit))
                    for piece in pieces:
                        checked.add(piece)
                        self._sync(piece)

    def finish(self) -> None:
        """Writes everything but the shards, and in two passes these too."""
        vocabularies: list[Vocabulary] | None = None
        pieces = Journal(self._folder, READ if self._spec.two_passes else DONE).read()
        with Quarantine(self._folder, self._spec.max_bad_rows) as quarantine:
            sources = sources_of(self._files, pieces, quarantine)
            quarantine.check(final=True)
            require_rows(pieces)
        scale = scale_of(self._spec, pieces)
        assigned = self._assigned(pieces)
        if self._spec.two_passes:
            vocabularies = self._vocabularies(pieces)
            pieces = self._encode(pieces, assigned, vocabularies, scale)
        else:
            pieces = [assign_piece(self._folder, *pair) for pair in zip(pieces, assigned, strict=True)]
        splits = splits_of(pieces)
        written = sum(info.rows for info in splits.values())
        if quarantine.rows_read != written + quarantine.rows:
            raise RuntimeError(f"{quarantine.rows_read} lines, {written} rows, {quarantine.rows} quarantined")
        fields = self._fields(vocabularies)
        clicks = sum(sum(piece.clicks.values()) for piece in pieces)
        details: dict[str, Any] = {"truncated": [self._paths[p.file] for p in pieces if p.truncated]}
        if scale.low is not None and scale.high is not None:
            details |= {"low": scale.low.tolist(), "high": scale.high.tolist()}
        manifest = Manifest(
            created_with=CREATED_WITH,
            kind="criteo",
            ids={"kind": self._spec.ids, "definition": self._definition()},
            fields=fields,
            dense=DENSE_NAMES,
            splits=splits,
            rows_read=quarantine.rows_read,
            rows_written=written,
            rows_quarantined=quarantine.rows,
            label_rate=clicks / written,
            missing_numeric=dict(zip(DENSE_NAMES, np.sum([p.missing for p in pieces], axis=0).tolist(), strict=True)),
            spec=asdict(self._spec),
            sources=sources,
            details={key: value for key, value in details.items() if value},
        )
        write_manifest(self._folder, manifest)
        for name in (BETWEEN, READ, "merge", DONE):
            shutil.rmtree(self._folder / name, ignore_errors=True)
        self._remove_others(pieces)
        (self._folder / "lines.json").unlink(missing_ok=True)

    def _assigned(self, pieces: Sequence[Piece]) -> list[NDArray[np.uint8] | str]:
        """Per piece, the split of its rows."""
        lines = [0] * len(self._files)
        starts = []
        for piece in pieces:
            starts.append(lines[piece.file])
            lines[piece.file] += piece.lines
        splitter = Splitter(self._spec, lines)
        return [split_rows(splitter, piece, start) for piece, start in zip(pieces, starts, strict=True)]

    def _remove_others(self, pieces: Sequence[Piece]) -> None:
        """Removes shards that were cut into others; after the journals, which would miss them, so at the very end."""
        kept = {shard.file for piece in pieces for shard in piece.shards.values()}
        for file in (self._folder / ROWS).glob("*"):
            if f"{ROWS}/{file.name}" not in kept:
                file.unlink()

    def _vocabularies(self, pieces: Sequence[Piece]) -> list[Vocabulary] | None:
        if self._spec.ids != "vocabulary":
            return None
        merge = self._folder / "merge"
        shutil.rmtree(merge, ignore_errors=True)  # quick to make again, and then certainly complete
        merge.mkdir()
        distinct = [Distinct(self._folder / piece.shards["tokens"].file) for piece in pieces if piece.shards]
        with bar("vocabularies", NUM_FIELDS, "fields", self._progress) as advance:
            arguments = [(merge, field, distinct, self._spec) for field in range(NUM_FIELDS)]
            found = []
            with closing(Threads(2).map(make_vocabulary, arguments)) as results:
                for vocabulary in results:
                    found.append(vocabulary)
                    advance(1)
        return found

    def _encode(
        self,
        pieces: Sequence[Piece],
        assigned: Sequence[NDArray[np.uint8] | str],
        vocabularies: list[Vocabulary] | None,
        scale: Scale,
    ) -> list[Piece]:
        journal = Journal(self._folder, DONE)
        done = {piece.key: piece for piece in journal.verified()}
        left = [(p, split) for p, split in zip(pieces, assigned, strict=True) if p.key not in done]
        threads = self._runner if isinstance(self._runner, Threads) else Threads(None)
        with bar("writing", sum(p.lines for p, _ in left), "rows", self._progress) as advance:
            arguments = [(self._folder, piece, split, vocabularies, scale) for piece, split in left]
            with closing(threads.map(encode_piece, arguments)) as results:
                for piece in results:
                    done[piece.key] = piece
                    advance(piece.lines)
                    self._sync(piece)
        return [done[piece.key] for piece in pieces]

    def _sync(self, piece: Piece) -> None:
        for shard in piece.shards.values():
            sync(self._folder / shard.file)

    def _fields(self, vocabularies: list[Vocabulary] | None) -> tuple[FieldInfo, ...]:
        if vocabularies is None:
            return tuple(FieldInfo(name=n, num_embeddings=self._spec.max_ind_range) for n in FIELD_NAMES)
        (self._folder / "vocabulary").mkdir(exist_ok=True)
        infos = []
        for f, (name, vocabulary) in enumerate(zip(FIELD_NAMES, vocabularies, strict=True)):
            file = f"vocabulary/{f:02d}.parquet"
            vocabulary.save(self._folder / file)
            sync(self._folder / file)
            infos.append(FieldInfo(name=name, num_embeddings=vocabulary.num_embeddings, vocabulary=file))
        return tuple(infos)

    def _definition(self) -> str:
        definition = _DIRECT if self._spec.ids == "direct" else DEFINITION
        modulo = self._spec.max_ind_range
        return definition + (f"; tokens are taken modulo {modulo} first" if modulo else "")

    def _units(self, files: Sequence[int]) -> list[Unit]:
        units: list[Unit] = []
        for file in files:
            pieces = self._files[file].pieces
            units += [(file, None)] if pieces is None else [(file, piece) for piece in range(pieces)]
        return units

    def _bytes(self, unit: Unit) -> float:
        file = self._files[unit[0]]
        return file.bytes / (file.pieces or 1)
