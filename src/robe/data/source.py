"""Reading raw CSV and Parquet files in bounded memory, with line numbers."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from robe.checks import nearest
from robe.data.format import DataError
from robe.data.lines import Lines
from robe.data.quarantine import Quarantine, plain_row
from robe.data.spec import TableSpec

_BLOCK = 16 << 20  # bytes of CSV parsed at a time, and the longest line
_HEADER = 1 << 20  # longest header line
_ROWS = 262144  # rows of Parquet read at a time
_COMPRESSION = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
_END = "robe: end of the file"
_SEPARATORS = {".csv": ",", ".tsv": "\t"}


log = logging.getLogger("robe")


@dataclass(frozen=True)
class Chunk:
    """Rows of a source: the needed columns, and the line (CSV) or row (Parquet) of each, int64 [n], from 1."""

    frame: pl.DataFrame
    lines: NDArray[np.int64]


class Source:
    """One raw file.

    A CSV must be UTF-8; blank lines are skipped; a quoted value with a line break counts as one line. Rows with the
    wrong number of values, bytes that are not UTF-8, or a NUL byte in a needed column are malformed. A row with the
    wrong number of values over several lines is taken as that many rows, swallowed by a stray quote.

    Args:
        path: .csv, .tsv (or any suffix, with a separator), optionally .gz, .zst or .bz2; or .parquet.
        spec: for separator, quote and column names.

    Raises:
        FileNotFoundError: no such file.
        DataError: the file is empty, no table, or its header names a column twice.
    """

    def __init__(self, path: str | Path, spec: TableSpec) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"{path}: no such file" + (" (a folder)" if self.path.is_dir() else ""))
        self.bytes = self.path.stat().st_size
        if not self.bytes:
            raise DataError(f"{path}: the file is empty")
        suffixes = [suffix.lower() for suffix in self.path.suffixes]
        self._compression = _COMPRESSION.get(suffixes[-1]) if suffixes else None
        suffix = "".join(suffixes[:-1][-1:] if self._compression else suffixes[-1:])
        self._parquet = suffix in (".parquet", ".pq")
        self._headerless = bool(spec.columns)
        self._quote = spec.quote
        self._last_line = 0  # where the last row read begins, for errors
        if self._parquet:
            try:
                self.columns = pq.read_schema(self.path).names
            except (pa.ArrowInvalid, OSError) as error:
                raise DataError(f"{path}: not a Parquet file ({_first_line(error)})") from error
        else:
            separator = spec.separator or _SEPARATORS.get(suffix)
            if separator is None:
                raise DataError(f"{path}: unknown suffix {suffix!r}; give separator, or name it .csv, .tsv or .parquet")
            self._separator = separator
            self.columns = list(spec.columns) or self._header()
        twice = sorted({name for name in self.columns if self.columns.count(name) > 1})
        if twice:
            raise DataError(f"{path}: columns {twice} appear twice in the header; rename one of each")

    @property
    def text(self) -> bool:
        """True for a CSV, whose columns are all text."""
        return not self._parquet

    def require(self, columns: Sequence[str]) -> None:
        """Raises DataError unless the source has all ``columns``."""
        missing = [name for name in columns if name not in self.columns]
        if missing:
            raise DataError(f"{self.path}: no column {missing[0]!r}; {nearest(missing[0], self.columns)}")

    def chunks(
        self, columns: Sequence[str], quarantine: Quarantine, advance: Callable[[float], None]
    ) -> Iterator[Chunk]:
        """The rows with their ``columns``; malformed ones go to ``quarantine``, which counts the rows read."""
        read = self._parquet_chunks if self._parquet else self._csv_chunks
        try:
            yield from read(list(columns), quarantine, advance)
        except (pa.ArrowInvalid, OSError) as error:
            message = _first_line(error)
            if "straddling" in message:
                message = f"line {self._last_line + 1}: a line is longer than {_BLOCK >> 20} MB"
                message += "; is a quote never closed? Mend it, or give quote='' (--quote '')" if self._quote else ""
            raise DataError(f"{self.path}: cannot be read: {message}") from error

    def _header(self) -> list[str]:
        with self._open() as stream:
            try:
                head = stream.read(_HEADER)
            except OSError as error:
                raise DataError(f"{self.path}: cannot be read: {_first_line(error)}") from error
        line, newline, _ = head.partition(b"\n")
        if not newline and len(head) >= _HEADER - 8:
            raise DataError(f"{self.path}: no table: its first line is longer than {_HEADER >> 20} MB")
        text = line.decode("utf-8-sig").rstrip("\r")
        if "\0" in text:
            raise DataError(
                f"{self.path}: no table: NUL bytes, or bytes that are not UTF-8, in its first line; is it binary?"
            )
        if not text.strip():
            raise DataError(f"{self.path}: the first line is blank, expected the names of the columns")
        quoting = {"quotechar": self._quote} if self._quote else {"quoting": csv.QUOTE_NONE}
        return next(csv.reader([text], delimiter=self._separator, **quoting))

    def _open(self, end: str = "") -> Lines:
        return Lines(self.path, self._compression, end)

    def _csv_chunks(
        self, columns: list[str], quarantine: Quarantine, advance: Callable[[float], None]
    ) -> Iterator[Chunk]:
        # One column too many, so that Arrow hands it to drop.
        end = _END + self._separator * len(self.columns) if self._quote else ""
        stream = self._open(end)
        closed = not self._quote
        dropped: list[int] = []
        header = 0 if self._headerless else 1

        def drop(row: Any) -> str:
            nonlocal closed
            if end and row.text == end:
                closed = True
                return "skip"
            dropped.append(row.number)
            if end and row.text and row.text.endswith(end):
                return "skip"  # the quote is never closed, which is an error below
            reason = f"expected {row.expected_columns} columns, got {row.actual_columns}"
            texts = [text for text in (row.text or "").split("\n") if text.strip("\r")] or [""]
            lines = stream.lines_of(row.number, len(texts))
            if len(lines) > 1:
                reason += f" (a quoted value makes lines {lines[0]} to {lines[-1]} one row)"
            for line, text in zip(lines, texts, strict=True):
                quarantine.add(self.path.name, line, reason, text)
            quarantine.rows_read += len(lines)
            self._last_line = max(self._last_line, lines[-1])
            return "skip"

        with stream:
            try:
                reader = pacsv.open_csv(
                    stream,
                    # Rows are only numbered by a single thread.
                    read_options=pacsv.ReadOptions(
                        use_threads=False, block_size=_BLOCK, column_names=self.columns, skip_rows=header
                    ),
                    parse_options=pacsv.ParseOptions(
                        delimiter=self._separator,
                        quote_char=self._quote or False,
                        newlines_in_values=bool(self._quote),
                        invalid_row_handler=drop,
                    ),
                    convert_options=pacsv.ConvertOptions(
                        column_types=dict.fromkeys(columns, pa.string()),
                        include_columns=columns,
                        check_utf8=False,
                        strings_can_be_null=False,
                    ),
                )
            except pa.ArrowInvalid as error:
                if "Empty CSV" in str(error) or "Could not skip initial" in str(error):
                    return  # nothing after the header
                raise
            seen, number = 0, header  # of dropped rows; of the last row
            while (batch := _next(reader)) is not None:
                n = len(batch)
                numbers = _numbers(number, n, np.array(dropped[seen:], dtype=np.int64))
                number = int(numbers[-1]) if n else number
                while seen < len(dropped) and dropped[seen] <= number:
                    seen += 1
                advance(stream.advanced())
                lines = stream.line_of(numbers)
                self._last_line = max(self._last_line, int(lines[-1]) if n else 0)
                yield self._decoded(batch, lines, quarantine)
            advance(stream.advanced())
            number = max([number, *dropped[-1:]])
            if not closed:
                raise DataError(
                    f"{self.path}: line {int(stream.line_of(np.array([number]))[0])}: a quote is opened and never "
                    "closed; mend the line, or give quote='' (--quote '') if quotes are only text"
                )
            inside = stream.unaccounted(number)
            if inside > 0 and self._quote:
                log.warning(
                    "%s: %d lines are inside quoted values with line breaks; if the table should have none, a quote "
                    "is stray: mend it, or give quote='' (--quote '')",
                    self.path,
                    inside,
                )

    def _decoded(self, batch: pa.RecordBatch, lines: NDArray[np.int64], quarantine: Quarantine) -> Chunk:
        frame = pl.DataFrame(pl.from_arrow(batch))
        quarantine.rows_read += len(batch)
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            buffer = column.buffers()[2]
            if buffer is None or not (np.frombuffer(buffer, np.uint8) == 0).any():
                continue
            bad = frame[name].str.contains("\0", literal=True)
            for row, line in zip(frame.filter(bad).iter_rows(), lines[bad.to_numpy()].tolist(), strict=True):
                reason = f"column {name!r}: a NUL byte, or bytes that are not UTF-8"
                quarantine.add(self.path.name, line, reason, plain_row(row))
            frame, lines = frame.filter(~bad), lines[~bad.to_numpy()]
        return Chunk(frame, lines)

    def _parquet_chunks(
        self, columns: list[str], quarantine: Quarantine, advance: Callable[[float], None]
    ) -> Iterator[Chunk]:
        with pq.ParquetFile(self.path) as file:
            share = self.bytes / max(1, file.metadata.num_rows)
            row = 1
            for batch in file.iter_batches(_ROWS, columns=columns):
                quarantine.rows_read += len(batch)
                advance(share * len(batch))
                yield Chunk(pl.DataFrame(pl.from_arrow(batch)), np.arange(row, row + len(batch)))
                row += len(batch)


def _numbers(last: int, n: int, dropped: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers of the next ``n`` rows after row ``last`` when the ``dropped`` ones are left out."""
    candidates = np.arange(last + 1, last + 1 + n + len(dropped), dtype=np.int64)
    return np.setdiff1d(candidates, dropped, assume_unique=True)[:n]


def _next(reader: pacsv.CSVStreamingReader) -> pa.RecordBatch | None:
    try:
        return reader.read_next_batch()
    except StopIteration:
        return None


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
