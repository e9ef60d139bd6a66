"""What the pieces of a Criteo data set add up to."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from robe.data.criteo.encode import Scale
from robe.data.criteo.journal import Piece
from robe.data.criteo.raw import RawFile
from robe.data.criteo.spec import CriteoSpec
from robe.data.criteo.splits import NAMES
from robe.data.format import SourceInfo, SplitInfo
from robe.data.quarantine import Quarantine

log = logging.getLogger("robe")


class BadLines:
    """Stops a run as soon as too many lines are malformed."""

    def __init__(self, limit: float, files: Sequence[RawFile], finished: Sequence[Piece]) -> None:
        self._quarantine = Quarantine(None, limit)
        self._files = files
        for piece in finished:
            self.add(piece)

    def add(self, piece: Piece) -> None:
        """Counts ``piece``; raises DataError when it is too much."""
        self._quarantine.rows_read += piece.lines
        for line, reason, text in piece.malformed:
            where = self._files[piece.file].name + (f" piece {piece.piece}" if piece.piece else "")
            self._quarantine.add(where, line + 1, reason, text)
        self._quarantine.check()


def sources_of(files: Sequence[RawFile], pieces: Sequence[Piece], quarantine: Quarantine) -> tuple[SourceInfo, ...]:
    """Puts the malformed lines into ``quarantine`` under their number in the file, and returns facts of the files."""
    infos = []
    for number, file in enumerate(files):
        own = [piece for piece in pieces if piece.file == number]
        before, bad = 0, quarantine.rows
        for piece in own:
            for line, reason, text in piece.malformed:
                quarantine.add(file.name, before + line + 1, reason, text)
            if piece.truncated:
                log.warning(
                    "%s: the gzip data end in the middle of the file, in line %d", file.path, before + piece.lines
                )
            before += piece.lines
        quarantine.rows_read += before
        infos.append(
            SourceInfo(
                file=file.name,
                bytes=file.bytes,
                sha256=None,
                rows=before,
                quarantined=quarantine.rows - bad,
            )
        )
    return tuple(infos)


def splits_of(pieces: Sequence[Piece]) -> dict[str, SplitInfo]:
    """The splits that have rows."""
    splits = {}
    for name in NAMES:
        shards = tuple(piece.shards[name] for piece in pieces if name in piece.shards)
        rows = sum(shard.rows for shard in shards)
        if rows:
            clicks = sum(piece.clicks.get(name, 0) for piece in pieces)
            splits[name] = SplitInfo(rows=rows, label_rate=clicks / rows, shards=shards)
    return splits


def scale_of(spec: CriteoSpec, pieces: Sequence[Piece]) -> Scale:
    """The scale of the numeric features."""
    if spec.numeric_transform != "minmax":
        return Scale(None, None)
    low = np.min([piece.low for piece in pieces if piece.low], axis=0)
    return Scale(low, np.max([piece.high for piece in pieces if piece.high], axis=0))


def estimate(file: RawFile) -> tuple[float, float]:
    """Rows of a file and rows of a piece of it, judged by its first megabyte."""
    head = file.head()
    density = max(head.count(b"\n"), 1) / max(len(head), 1)
    growth = 3.0 if file.compressed else 1.0  # of such text, about
    rows = file.bytes * growth * density
    return rows, min(rows, file.piece_bytes * density)
