"""Lines of a Criteo file to arrays, a block of lines at a time, without a Python loop over lines.

Every field ends at a tab or line feed, so the positions of these give the end and length of every field, and the
eight bytes before the end are its digits. They are gathered as one 64-bit word per field and decoded all together by
a few operations on whole words: pairs of digits, then pairs of pairs, then the two halves.

What a block holds besides digits in their places makes its line *odd*. Odd lines are read again by
:func:`robe.data.criteo.plain.parse_line`, whose answer counts; so both readers agree on every line, by construction
on odd ones and by test on the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from robe.data.criteo.columns import COLUMNS, NUM_DENSE, NUM_FIELDS
from robe.data.criteo.plain import parse_line, shown

UInt64 = NDArray[np.uint64]
Int64 = NDArray[np.int64]

MARGIN: Final = 8  # bytes before and after the text, for words that begin before it
_BLOCK: Final = 1 << 20  # bytes whose arrays mostly stay in the cache, and keep the interpreter's share small
_SMALL: Final = 1 << 16
_SHOWN: Final = 250  # bytes of a malformed line that are kept

_TAB, _LF, _CR, _MINUS = (np.uint8(ord(c)) for c in "\t\n\r-")
_U = np.uint64
# By length: the bytes of a word that belong to a field, and the digits of a token.
_BYTES: Final = np.array([(2**64 - 1) ^ (2 ** (64 - 8 * n) - 1) for n in range(9)], dtype=np.uint64)
_DIGITS: Final = np.array([2 ** (4 * n) - 1 for n in range(9)], dtype=np.uint64)


@dataclass
class Rows:
    """Where parsed lines go: arrays for at least as many rows as there are lines; the first ``count`` are filled.

    Args:
        label: float32 [n].
        dense: float32 [n, 13], log(1 + max(count, 0)) or the counts themselves; 0 where missing.
        tokens: int64 [n, 26], 0 where missing.
        transform: of the counts, ``log1p`` or ``none``.
        count: rows filled.
        lines: lines read, malformed ones included.
        malformed: (line from 0, reason, text) of malformed lines.
        missing: int64 [13], empty fields among the counts of the rows.
    """

    label: NDArray[np.float32]
    dense: NDArray[np.float32]
    tokens: Int64
    transform: Literal["log1p", "none"] = "log1p"
    count: int = 0
    lines: int = 0
    malformed: list[tuple[int, str, str]] = field(default_factory=list)
    missing: Int64 = field(default_factory=lambda: np.zeros(NUM_DENSE, dtype=np.int64))

    @staticmethod
    def allocate(rows: int, transform: Literal["log1p", "none"] = "log1p") -> Rows:
        """Room for ``rows`` rows."""
        return Rows(
            np.empty(rows, dtype=np.float32),
            np.empty((rows, NUM_DENSE), dtype=np.float32),
            np.empty((rows, NUM_FIELDS), dtype=np.int64),
            transform,
        )

    def reset(self, transform: Literal["log1p", "none"]) -> None:
        """Empties them, for other lines."""
        self.transform, self.count, self.lines, self.malformed = transform, 0, 0, []
        self.missing = np.zeros(NUM_DENSE, dtype=np.int64)


def parse(text: bytearray, start: int, stop: int, rows: Rows) -> None:
    """Appends the lines in ``text[start:stop]`` to ``rows``.

    Args:
        text: at least :data:`MARGIN` bytes before ``start`` and after ``stop`` belong to it too, whatever they are.
        start: where the first line begins.
        stop: where the last line ends, after its line feed.
        rows: with room for them.
    """
    while start < stop:
        end = text.rfind(b"\n", start, min(start + _BLOCK, stop)) + 1
        if not end:
            end = text.index(b"\n", start, stop) + 1
        _parse_block(text, start, end, rows)
        start = end


def _parse_block(text: bytearray, start: int, stop: int, rows: Rows) -> None:
    block = np.frombuffer(text, np.uint8, stop - start, start)
    # Tab is 9, line feed 10. One comparison does while no byte is below.
    separators = np.flatnonzero((block <= _LF) if block.min() >= _TAB else ((block - _TAB) < 2))
    n = int(np.count_nonzero(block == _LF))
    whole: Int64 | None = None  # lines with 40 columns, when not all have
    if len(separators) != n * COLUMNS or not (block.take(separators[COLUMNS - 1 :: COLUMNS]) == _LF).all():
        is_end = block.take(separators) == _LF
        columns = np.diff(np.flatnonzero(is_end), prepend=-1)
        separators, line_ends = separators[np.repeat(columns == COLUMNS, columns)], separators[is_end]
        whole = np.flatnonzero(columns == COLUMNS)
    ends = separators.reshape(-1, COLUMNS)
    if whole is None:
        line_ends = ends[:, -1]
    m = len(ends)
    out = slice(rows.count, rows.count + m)
    odd = _decode(text, start, block, ends, line_ends, rows, out, whole)
    bad_rows: list[int] = []
    bad_lines = [] if whole is None else np.setdiff1d(np.arange(n), whole, assume_unique=True).tolist()
    lines = odd if whole is None else whole[odd]
    for row, line in zip(odd.tolist(), lines.tolist(), strict=True):
        found = parse_line(_line(text, start, line_ends, line))
        if isinstance(found, str):
            bad_rows.append(row)
            bad_lines.append(line)
            continue
        at = rows.count + row
        rows.label[at] = found.label
        rows.dense[at] = [_dense(count, rows.transform) for count in found.counts]
        rows.tokens[at] = found.tokens
        rows.missing += [count is None for count in found.counts]
    for line in sorted(bad_lines):
        content = _line(text, start, line_ends, line)
        reason = parse_line(content)
        assert isinstance(reason, str)
        rows.malformed.append((rows.lines + line, reason, shown(content[:_SHOWN])))
    if bad_rows:
        _drop(rows, out, np.array(bad_rows))
    rows.count += m - len(bad_rows)
    rows.lines += n


def _decode(
    text: bytearray,
    start: int,
    block: NDArray[np.uint8],
    ends: Int64,
    line_ends: Int64,
    rows: Rows,
    out: slice,
    whole: Int64 | None,
) -> Int64:
    """Fills rows ``out`` from lines of 40 columns that end at ``ends`` [m, 40]; returns the odd ones among them."""
    odd = np.zeros(len(ends), dtype=bool)
    lengths = ends[:, 1:] - ends[:, :-1]
    lengths -= 1
    numbers, tokens = lengths[:, :NUM_DENSE], lengths[:, NUM_DENSE:]
    minus = np.count_nonzero(block == _MINUS)
    known = _digits(block) + minus + len(ends) * COLUMNS
    if known != len(block):
        ends = _odd_bytes(block, ends, tokens, line_ends, whole, odd)

    words = np.ndarray((len(text) - 7,), dtype="<u8", buffer=text, strides=(1,))
    base = start - 8

    x = words[ends[:, 1 + NUM_DENSE :] + base]
    letters = x >> _U(6)
    letters &= _U(0x0101010101010101)
    letters *= _U(9)
    x &= _U(0x0F0F0F0F0F0F0F0F)
    x += letters
    _join(x, 16)
    np.bitwise_and(x, _DIGITS.take(tokens, mode="clip"), out=rows.tokens[out].view(np.uint64))
    if tokens.max(initial=0) > 8:
        odd |= tokens.max(axis=1) > 8

    x = words[ends[:, 1 : 1 + NUM_DENSE] + base]
    negative: NDArray[np.bool_] | None = None
    missing = numbers == 0
    if minus:
        negative = block.take(ends[:, :NUM_DENSE] + 1) == _MINUS
        negative &= numbers > 1  # an empty field begins with the next one's sign, or is nothing but a sign
        numbers = numbers - negative
        if np.count_nonzero(negative) != minus:
            _odd_signs(block, negative, line_ends, whole, odd)
    x &= _BYTES.take(numbers, mode="clip")
    if np.bitwise_or.reduce(x, axis=None) & _U(0x4040404040404040):  # letters
        odd |= np.bitwise_or.reduce(x, axis=1) & _U(0x4040404040404040) != 0
    if numbers.max(initial=0) > 8:
        odd |= numbers.max(axis=1) > 8
    x &= _U(0x0F0F0F0F0F0F0F0F)
    _join(x, 10)
    _transform(x.view(np.int64), negative, rows.dense[out], rows.transform)

    first = np.concatenate([np.zeros(1, dtype=np.int64), line_ends[:-1] + 1])
    if whole is not None:
        first = first[whole]
    label = block.take(first) - np.uint8(48)
    odd |= (label > 1) | (ends[:, 0] - first != 1)
    rows.label[out] = label
    missing[odd] = False  # counted by whoever reads them again
    rows.missing += _column_sums(missing)
    return np.flatnonzero(odd)


def _column_sums(flags: NDArray[np.bool_]) -> Int64:
    # Sums of short rows are slow; those of 64 rows side by side are not.
    whole = len(flags) // 64 * 64
    wide = flags[:whole].reshape(-1, 64 * NUM_DENSE).sum(axis=0, dtype=np.int64)
    sums: Int64 = wide.reshape(64, NUM_DENSE).sum(axis=0) + flags[whole:].sum(axis=0, dtype=np.int64)
    return sums


def _join(x: UInt64, base: int) -> None:
    """Eight digits, one per byte and the first in the lowest byte, to their number in ``base``; in place."""
    # x * (base 2^8 + 1) has base * digit 0 + digit 1 in byte 1, and so on.
    x *= _U((base << 8) + 1)
    x >>= _U(8)
    x &= _U(0x00FF00FF00FF00FF)
    x *= _U((base**2 << 16) + 1)
    x >>= _U(16)
    x &= _U(0x0000FFFF0000FFFF)
    x *= _U((base**4 << 32) + 1)
    x >>= _U(32)


def _transform(counts: Int64, negative: NDArray[np.bool_] | None, out: NDArray[np.float32], transform: str) -> None:
    if transform == "none":
        out[...] = counts
        if negative is not None:
            np.negative(out, out=out, where=negative)
        return
    _log1p().take(counts, out=out, mode="clip")
    if counts.max(initial=0) >= _SMALL:
        large = counts >= _SMALL
        out[large] = [math.log1p(count) for count in counts[large].tolist()]
    if negative is not None:
        out[negative] = 0


@cache
def _log1p() -> NDArray[np.float32]:
    # math, not numpy, and rounded: the last bit of numpy's transcendental functions depends on the processor.
    return np.array([math.log1p(count) for count in range(_SMALL)], dtype=np.float32)


def _dense(count: int | None, transform: str) -> float:
    return math.log1p(max(count or 0, 0)) if transform == "log1p" else float(count or 0)


def _digits(block: NDArray[np.uint8]) -> int:
    """Number of hexadecimal digits, without capital letters."""
    decimal = np.count_nonzero((block - np.uint8(48)) < 10)
    return int(decimal + np.count_nonzero((block - np.uint8(97)) < 6))


def _odd_bytes(
    block: NDArray[np.uint8],
    ends: Int64,
    last_lengths: Int64,
    line_ends: Int64,
    whole: Int64 | None,
    odd: NDArray[np.bool_],
) -> Int64:
    """Marks lines with bytes that have no business there; carriage returns before line feeds have, and are cut off."""
    strange = (block - np.uint8(48)) >= 10
    strange &= ((block | np.uint8(32)) - np.uint8(97)) >= 6
    strange &= (block - _TAB) >= 2
    strange &= block != _MINUS
    cut = block.take(ends[:, -1] - 1, mode="clip") == _CR
    strange[ends[cut, -1] - 1] = False
    _mark(odd, np.flatnonzero(strange), line_ends, whole)
    ends = ends.copy()
    ends[:, -1] -= cut
    last_lengths[:, -1] -= cut
    return ends


def _odd_signs(
    block: NDArray[np.uint8],
    negative: NDArray[np.bool_],
    line_ends: Int64,
    whole: Int64 | None,
    odd: NDArray[np.bool_],
) -> None:
    lines = np.bincount(np.searchsorted(line_ends, np.flatnonzero(block == _MINUS)), minlength=len(line_ends))
    if whole is not None:
        lines = lines[whole]
    odd |= lines != np.count_nonzero(negative, axis=1)


def _mark(odd: NDArray[np.bool_], positions: Int64, line_ends: Int64, whole: Int64 | None) -> None:
    lines = np.unique(np.searchsorted(line_ends, positions))
    if whole is None:
        odd[lines] = True
    else:
        odd[np.isin(whole, lines)] = True


def _line(text: bytearray, start: int, line_ends: Int64, line: int) -> bytes:
    first = start + (int(line_ends[line - 1]) + 1 if line else 0)
    return bytes(text[first : start + int(line_ends[line])])


def _drop(rows: Rows, out: slice, bad: Int64) -> None:
    good = np.delete(np.arange(out.stop - out.start), bad)
    kept = slice(out.start, out.start + len(good))
    for array in (rows.label, rows.dense, rows.tokens):
        array[kept] = array[out][good]
