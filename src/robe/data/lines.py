"""The bytes of a CSV file, with the lines in them counted."""

from __future__ import annotations

import codecs
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

codecs.register_error("robe-nul", lambda error: ("\0", error.end))  # type: ignore[attr-defined]


class Lines(io.RawIOBase):
    """Bytes of a file, decompressed, as a stream for Arrow.

    Bytes that are not UTF-8 become NUL bytes, which mark the row as malformed; Arrow would lose such a row if it also
    had the wrong number of columns. Blank lines, which Arrow skips without counting them, are noted.

    Args:
        path: the file.
        compression: Arrow's name of it, or None.
        end: a last line to add. A reader that does not meet it is inside a quote that nobody closed.
    """

    def __init__(self, path: Path, compression: str | None, end: str = "") -> None:
        self._file = path.open("rb")
        self._bytes = pa.CompressedInputStream(pa.PythonFile(self._file), compression) if compression else self._file
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="robe-nul")
        self._position = 0
        self._line = 1
        self._at_line_start = True
        self._blank: list[int] = []
        self._end = end
        self._extra = 0
        self._many: list[tuple[int, int]] = []  # rows of several lines: number, lines after the first

    def read(self, size: int = -1) -> bytes:
        """At most ``size`` bytes."""
        block = b""
        while not block:
            # A few bytes may wait in the decoder, and no more than asked for may be returned.
            raw = self._bytes.read(max(size - 8, 1) if size >= 0 else -1)
            block = self._decoder.decode(raw, final=not raw).encode()
            if not raw:
                break
        self._note(block)
        if not block and self._end:
            block, self._end = f"{'' if self._at_line_start else chr(10)}{self._end}\n".encode(), ""
        return block

    def _note(self, block: bytes) -> None:
        if b"\n\n" in block or b"\n\r\n" in block or (self._at_line_start and block[:1] in (b"\n", b"\r")):
            lines = block.split(b"\n")
            first = 0 if self._at_line_start else 1
            self._blank += [self._line + i for i, line in enumerate(lines[:-1]) if i >= first and line in (b"", b"\r")]
            self._line += len(lines) - 1
        else:
            self._line += block.count(b"\n")
        if block:
            self._at_line_start = block.endswith(b"\n")

    def readable(self) -> bool:
        """True."""
        return True

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
        super().close()

    def line_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """First lines, from 1, of the rows that Arrow counts as ``numbers``."""
        many = np.array(self._many, dtype=np.int64).reshape(-1, 2)
        after = np.concatenate([[0], many[:, 1].cumsum()])
        return self._skip_blank(numbers + after[np.searchsorted(many[:, 0], numbers, side="left")])

    def lines_of(self, number: int, count: int) -> list[int]:
        """The lines of row ``number``, which has ``count`` that are not blank; to be asked in the order of the rows."""
        first = number + self._extra
        if count > 1:
            self._many.append((number, count - 1))
            self._extra += count - 1
        return [int(line) for line in self._skip_blank(np.arange(first, first + count))]

    def unaccounted(self, number: int) -> int:
        """Lines that are not blank and not those of the rows up to the last, ``number``: they are inside values."""
        lines = self._line - self._at_line_start - len(self._blank)
        return lines - number - self._extra

    def _skip_blank(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        blank = np.array(self._blank, dtype=np.int64)
        before = blank - 1 - np.arange(len(blank))
        return numbers + np.searchsorted(before, numbers, side="left")

    def advanced(self) -> int:
        """Bytes of the file read since the last call."""
        position = self._file.tell()
        step, self._position = position - self._position, position
        return step
