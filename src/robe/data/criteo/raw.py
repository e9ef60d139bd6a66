"""Raw files in pieces: local or by URL, plain or gzip.

Piece k of a file is the lines whose first byte, of the text after decompression, is in [k S, (k + 1) S) with S
``PIECE_BYTES``. So a file and its compressed twin have the same pieces, and those of a plain file can be read in any
order, by any machine.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from robe.data.criteo.parse import MARGIN
from robe.data.format import DataError

log = logging.getLogger("robe")

PIECE_BYTES: Final = 32 << 20
_LONGEST: Final = 1 << 20  # bytes of a line
_READ: Final = 1 << 20
_MOST: Final = 8 << 20  # bytes of text at once, of however few compressed ones


class Buffer:
    """Memory for the text of one piece, used again for the next: the text is ``data[MARGIN : MARGIN + size]``."""

    def __init__(self) -> None:
        self.data = bytearray(2 * MARGIN)
        self.size = 0
        self.truncated = False

    def room(self, size: int) -> memoryview:
        """Grows to hold a text of ``size`` bytes; the view ends with them."""
        if len(self.data) < size + 2 * MARGIN:
            self.data.extend(bytes(size + 2 * MARGIN - len(self.data)))
        return memoryview(self.data)[MARGIN : MARGIN + size]

    @property
    def text(self) -> memoryview:
        """The lines of the piece, each with its line feed."""
        return memoryview(self.data)[MARGIN : MARGIN + self.size]


class RawFile:
    """One raw file.

    Args:
        path: a local path, or a URL that fsspec knows (``s3://``, ``gs://``, ``http://``, ``memory://``). Text that is
            gzip is named ``.gz``.
        piece_bytes: S. Default 32 MB.

    Raises:
        FileNotFoundError: no such file.
        ModuleNotFoundError: the package for the kind of URL is not installed.
        DataError: the file is empty.
    """

    def __init__(self, path: str | Path, piece_bytes: int = PIECE_BYTES) -> None:
        self.path = str(path)
        self.name = self.path.rstrip("/").rpartition("/")[2]
        self.piece_bytes = piece_bytes
        self.compressed = self.name.endswith(".gz")
        self.position = 0  # bytes read of a compressed file
        self.bytes, self.version = _facts(self.path)
        if not self.bytes:
            raise DataError(f"{path}: the file is empty")

    @property
    def pieces(self) -> int | None:
        """Number of pieces; None where it is only known at the end, of compressed files."""
        return None if self.compressed else -(-self.bytes // self.piece_bytes)

    def facts(self) -> dict[str, Any]:
        """What changes when the file does."""
        return {"file": self.name, "bytes": self.bytes, "version": self.version}

    def head(self) -> bytes:
        """The first bytes of the text, for estimates."""
        with _open(self.path) as file:
            raw = file.read(_READ)
        if not self.compressed:
            if raw[:2] == b"\x1f\x8b":
                raise DataError(f"{self.path}: a gzip file, whose name should end in .gz")
            return raw
        if raw[:2] != b"\x1f\x8b":
            raise DataError(f"{self.path}: not a gzip file, though its name ends in .gz")
        try:
            return zlib.decompressobj(31).decompress(raw, _READ)
        except zlib.error as error:
            raise DataError(f"{self.path}: damaged gzip data before byte {len(raw)} ({error})") from error

    def read(self, piece: int, buffer: Buffer) -> None:
        """Puts one piece of a plain file into ``buffer``."""
        first, last = piece * self.piece_bytes, min((piece + 1) * self.piece_bytes, self.bytes)
        begin = max(first - 1, 0)  # one byte before: is it a line feed, so that a line begins at the first byte?
        with _open(self.path) as file:
            file.seek(begin)
            size = _fill(file, buffer.room(last - begin))
            if size < last - begin:
                raise DataError(f"{self.path}: it has grown shorter while it was read; run the same command again")
            start = 0 if not first else buffer.data.find(b"\n", MARGIN, MARGIN + size) + 1 - MARGIN
            if start < 0 or start + begin >= last:
                buffer.size = 0
                self._check_length(size if start < 0 else 0, first)
                return
            # The line of the last byte goes on into the next piece.
            while buffer.data[MARGIN + size - 1] != ord("\n"):
                more = file.read(_READ)
                if not more:
                    more = b"\n"  # a last line without its line feed
                end = more.find(b"\n") + 1
                more = more[: end or None]
                buffer.room(size + len(more))[size:] = more
                size += len(more)
                self._check_length(size - (last - begin), last)
        if start:
            view = memoryview(buffer.data)
            view[MARGIN : MARGIN + size - start] = view[MARGIN + start : MARGIN + size]
        buffer.size = size - start

    def stream(self, buffer: Buffer) -> Iterator[int]:
        """Puts the pieces of a compressed file into ``buffer``, one after another; yields their numbers."""
        piece, begin, size = 0, 0, 0  # of the piece: number, and where its first line begins
        for block in self._blocks(buffer):
            buffer.room(size + len(block))[size:] = block
            size += len(block)
            while begin + size >= (limit := (piece + 1) * self.piece_bytes):
                if begin >= limit:  # a line longer than a piece
                    buffer.size = 0
                    yield piece
                    piece += 1
                    continue
                # The first line that begins at the limit or later is not of this piece.
                cut = buffer.data.find(b"\n", MARGIN + max(limit - 1 - begin, 0), MARGIN + size) + 1 - MARGIN
                if cut <= 0:
                    self._check_length(begin + size - limit, limit)
                    break
                rest = bytes(buffer.data[MARGIN + cut : MARGIN + size])
                buffer.size = cut
                yield piece
                buffer.room(len(rest))[: len(rest)] = rest
                piece, begin, size = piece + 1, begin + cut, len(rest)
        # What is missing of a truncated file counts as one line, even when it was cut between two.
        if buffer.truncated or (size and buffer.data[MARGIN + size - 1] != ord("\n")):
            buffer.room(size + 1)[size:] = b"\n"
            size += 1
        buffer.size = size
        yield piece

    def _blocks(self, buffer: Buffer) -> Iterator[bytes]:
        buffer.truncated = False
        with _open(self.path) as file:
            member = zlib.decompressobj(31)
            fresh, raw = True, b""
            try:
                while raw := raw or file.read(_READ):
                    text = member.decompress(raw, _MOST)
                    fresh, raw = False, member.unconsumed_tail
                    self.position = file.tell()
                    if text:
                        yield text
                    if member.eof:
                        # Files may be several gzip files one after another, with zeros at the end.
                        raw = member.unused_data.lstrip(b"\0")
                        member, fresh = zlib.decompressobj(31), True
                if not fresh:
                    if text := member.flush():
                        yield text
                    buffer.truncated = not member.eof
            except zlib.error as error:
                raise DataError(f"{self.path}: damaged gzip data before byte {file.tell()} ({error})") from error

    def _check_length(self, length: int, position: int) -> None:
        if length > _LONGEST:
            raise DataError(
                f"{self.path}: no line feed in {_LONGEST >> 20} MB near byte {position}; a Criteo file has a few "
                "hundred bytes a line"
            )


def _facts(path: str) -> tuple[int, str]:
    if "://" not in path:
        local = Path(path)
        if not local.is_file():
            raise FileNotFoundError(f"{path}: no such file" + (" (a folder)" if local.is_dir() else ""))
        stat = local.stat()
        return stat.st_size, str(stat.st_mtime_ns)
    import fsspec

    try:
        system, inner = fsspec.core.url_to_fs(path)
    except ImportError as error:
        raise ModuleNotFoundError(f"{path}: {error}; `pip install 'robe[http]'` has what http:// needs") from error
    info = system.info(inner)
    if not info.get("size"):
        raise DataError(f"{path}: the file is empty, or the server does not say how long it is")
    return int(info["size"]), str(info.get("ETag") or info.get("etag") or info.get("mtime") or "")


def _open(path: str) -> BinaryIO:
    if "://" not in path:
        return open(path, "rb", buffering=0)  # the pieces are the buffers
    import fsspec

    system, inner = fsspec.core.url_to_fs(path)
    return cast(BinaryIO, system.open(inner, "rb"))


def _fill(file: BinaryIO, view: memoryview) -> int:
    size = 0
    while size < len(view):
        n = cast(Any, file).readinto(view[size:])
        if not n:
            break
        size += n
    return size
