"""One line of a Criteo file, read the plain way: slow, exact, and the oracle of :mod:`robe.data.criteo.parse`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from robe.data.criteo.columns import COLUMNS, DENSE_NAMES, FIELD_NAMES, NUM_DENSE

_NUMBER = re.compile(rb"-?[0-9]{1,18}")
_TOKEN = re.compile(rb"[0-9a-fA-F]{1,8}")


@dataclass(frozen=True)
class Line:
    """A good line.

    Args:
        label: 0 or 1.
        counts: the 13 counts; None where missing.
        tokens: the 26 tokens as numbers below 2^32; 0 where missing, as in DLRM.
    """

    label: int
    counts: tuple[int | None, ...]
    tokens: tuple[int, ...]


def parse_line(line: bytes) -> Line | str:
    """``line`` without its line feed; the reason, as text, when it is malformed."""
    if b"\0" in line:
        return "a NUL byte"
    parts = line.removesuffix(b"\r").split(b"\t")
    if len(parts) != COLUMNS:
        return f"expected {COLUMNS} columns, got {len(parts)}"
    if parts[0] not in (b"0", b"1"):
        return f"label: expected 0 or 1, got {_shown(parts[0])}"
    counts: list[int | None] = []
    for name, part in zip(DENSE_NAMES, parts[1:], strict=False):
        if part and not _NUMBER.fullmatch(part):
            return f"{name}: expected a whole number of at most 18 digits, got {_shown(part)}"
        counts.append(int(part) if part else None)
    for name, part in zip(FIELD_NAMES, parts[1 + NUM_DENSE :], strict=True):
        if part and not _TOKEN.fullmatch(part):
            return f"{name}: expected 1 to 8 hexadecimal digits, got {_shown(part)}"
    return Line(int(parts[0]), tuple(counts), tuple(int(part or b"0", 16) for part in parts[1 + NUM_DENSE :]))


def shown(line: bytes) -> str:
    """``line`` as text for people, with other bytes than UTF-8 escaped."""
    return line.decode("utf-8", errors="backslashreplace")


def _shown(part: bytes) -> str:
    return repr(shown(part[:40]))
