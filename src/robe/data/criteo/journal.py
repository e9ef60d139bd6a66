"""What is done of a data set in the making: one JSON file per finished piece, so that a killed run goes on."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from robe.data.format import ShardInfo, file_digest

log = logging.getLogger("robe")


class Piece(BaseModel):
    """What one piece of a raw file became.

    Args:
        file: number of the raw file.
        piece: number of the piece in it.
        lines: lines read, malformed ones included.
        malformed: (line of the piece from 0, reason, text).
        missing: per numeric feature, empty fields.
        low: per numeric feature, the smallest value; empty without rows.
        high: per numeric feature, the largest value.
        clicks: as ``shards``, rows of label 1.
        shards: per split, its rows; ``all`` before they are assigned; in the first of two passes ``all`` codes, and
            their ``tokens``.
        truncated: the gzip data end in its middle.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: int
    piece: int
    lines: int
    malformed: tuple[tuple[int, str, str], ...] = ()
    missing: tuple[int, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    clicks: dict[str, int]
    shards: dict[str, ShardInfo]
    truncated: bool = False

    @property
    def key(self) -> tuple[int, int]:
        """Place among all pieces."""
        return self.file, self.piece

    @property
    def name(self) -> str:
        """Stem of its files."""
        return f"{self.file:03d}-{self.piece:06d}"


class Journal:
    """The finished pieces of one pass.

    Args:
        folder: of the data set in the making.
        name: of the pass, and of the folder in it.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._path = folder / name
        self._path.mkdir(exist_ok=True)

    def commit(self, piece: Piece) -> None:
        """Notes that ``piece`` is finished; its shards are complete files by now."""
        file = self._path / f"{piece.name}.json"
        partial = file.with_suffix(".partial")
        try:
            partial.write_text(piece.model_dump_json(), encoding="utf-8")
            partial.rename(file)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def read(self) -> list[Piece]:
        """The finished pieces in order; nothing of them is checked."""
        return [Piece.model_validate_json(file.read_bytes()) for file in sorted(self._path.glob("*.json"))]

    def verified(self) -> list[Piece]:
        """The pieces whose shards have the right SHA-256; others are forgotten, and will be made again."""
        good = []
        for file in sorted(self._path.glob("*.json")):
            try:
                piece = Piece.model_validate_json(file.read_bytes())
            except ValidationError:
                log.warning("%s: damaged, its piece is made again", file)
                file.unlink()
                continue
            bad = [shard.file for shard in piece.shards.values() if not _intact(self._folder, shard)]
            if bad:
                log.warning("%s: damaged or not there, made again", ", ".join(bad))
                file.unlink()
            else:
                good.append(piece)
        return good


def _intact(folder: Path, shard: ShardInfo) -> bool:
    file = folder / shard.file
    return file.is_file() and file.stat().st_size == shard.bytes and file_digest(file) == shard.sha256
