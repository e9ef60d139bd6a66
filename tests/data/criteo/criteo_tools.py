"""Raw lines, and the plain Python reader that everything is compared with; it shares no code with the library."""

import math
import random
from pathlib import Path

import numpy as np

from robe.data import PreparedDataset


def raw_lines(rows, seed=0):
    """Clean lines as Criteo has them: bytes without line feeds."""
    draw = random.Random(seed)
    lines = []
    for _ in range(rows):
        counts = [
            "" if draw.random() < 0.3 else str(int(draw.expovariate(0.01) ** draw.choice([0.5, 1, 2.3])))
            for _ in range(13)
        ]
        if draw.random() < 0.2:
            counts[1] = str(-draw.randint(1, 3))
        tokens = ["" if draw.random() < 0.2 else f"{draw.getrandbits(draw.choice([4, 12, 32])):08x}" for _ in range(26)]
        lines.append("\t".join([str(draw.randint(0, 1)), *counts, *tokens]).encode())
    return lines


def read_plainly(content):
    """(good rows, numbers of bad lines) of the bytes of a file, one line at a time."""
    good, bad = [], []
    lines = content.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    for number, line in enumerate(lines, 1):
        try:
            good.append(row_of(line.decode("ascii")))
        except ValueError:
            bad.append(number)
    return good, bad


def row_of(line):
    """Label, counts with None for missing, tokens; ValueError for a bad line."""
    parts = line.removesuffix("\r").split("\t")
    if "\0" in line or len(parts) != 40 or parts[0] not in ("0", "1"):
        raise ValueError
    return int(parts[0]), [number_of(part) for part in parts[1:14]], [token_of(part) for part in parts[14:]]


def number_of(part):
    if part == "":
        return None
    if not part.removeprefix("-").isdigit() or len(part.removeprefix("-")) > 18:
        raise ValueError
    return int(part)


def token_of(part):
    if part == "":
        return 0
    if len(part) > 8 or any(c not in "0123456789abcdefABCDEF" for c in part):
        raise ValueError
    return int(part, 16)


def log1p(counts):
    return [np.float32(math.log1p(max(count or 0, 0))) for count in counts]


def rows_of(dataset: PreparedDataset, split: str):
    """Label, dense, ids as arrays."""
    columns = dataset.split(split).columns(0, dataset.rows(split))
    return columns.label, columns.dense, columns.ids


def expect(dataset, split, good):
    """The rows of ``split`` are exactly the ``good`` ones, under log1p and direct ids."""
    label, dense, ids = rows_of(dataset, split)
    np.testing.assert_array_equal(label, [row[0] for row in good])
    np.testing.assert_array_equal(dense, np.array([log1p(row[1]) for row in good], np.float32).reshape(-1, 13))
    np.testing.assert_array_equal(ids, np.array([row[2] for row in good], np.int64).reshape(-1, 26))


def contents(folder: Path):
    """Name and bytes of every file."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}
