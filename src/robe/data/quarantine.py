"""Malformed rows, put aside with their place and the reason."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from robe.data.format import DataError

FILE = "quarantine.tsv"
_TEXT = 200  # characters of a row that are kept
_EARLY = 100_000  # a fraction is not judged on fewer rows, until the end


class Quarantine:
    """Counts malformed rows and writes them to ``quarantine.tsv``: source, line, reason, text.

    Args:
        folder: where to write the file, none of which is left when no row is malformed; None to count only.
        max_bad_rows: limit, a fraction of the rows read when below 1, else a count.
    """

    def __init__(self, folder: Path | None, max_bad_rows: float) -> None:
        self.rows = 0
        self.rows_read = 0
        self._limit = max_bad_rows
        self._first: list[str] = []
        self._file = None if folder is None else folder / FILE
        self._stream = None if self._file is None else self._file.open("w", encoding="utf-8", newline="\n")
        self._write("source", "line", "reason", "text")

    def __enter__(self) -> Quarantine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is None or self._file is None:
            return
        self._stream.close()
        if not self.rows:
            self._file.unlink()

    def add(self, source: str, line: int, reason: str, text: str) -> None:
        """Puts one row aside; ``text`` is cut to 200 characters."""
        self.rows += 1
        cut = text[:_TEXT] + ("…" if len(text) > _TEXT else "")
        self._write(source, str(line), reason, cut)
        if len(self._first) < 5:
            self._first.append(f"{source} line {line}: {reason}")

    def _write(self, *parts: str) -> None:
        if self._stream is not None:
            self._stream.write("\t".join(_plain(part) for part in parts) + "\n")

    @property
    def first(self) -> str:
        """Place and reason of the first row, empty if there is none."""
        return self._first[0] if self._first else ""

    def check(self, final: bool = False) -> None:
        """Raises DataError when too many rows are malformed; a fraction is judged on many rows, or at the end."""
        fraction = self._limit < 1
        allowed = self._limit * (self.rows_read if final else max(self.rows_read, _EARLY)) if fraction else self._limit
        if self.rows > allowed:
            limit = f"{self._limit:.4g} of them" if fraction else f"{self._limit:.0f}"
            raise DataError(
                f"{self.rows} of {self.rows_read} rows read are malformed, max_bad_rows allows {limit}. First: "
                + "; ".join(self._first)
            )


def plain_row(values: Sequence[object]) -> str:
    """The values of a row as one line, for people to read."""
    return " | ".join("" if value is None else str(value) for value in values)


def _plain(text: str) -> str:
    return text.encode("unicode_escape").decode() if not text.isprintable() else text
