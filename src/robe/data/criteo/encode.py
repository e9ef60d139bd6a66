"""The second of two passes: codes to ids, numbers to their scale."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robe.data.criteo.codes import Distinct, read_rows
from robe.data.criteo.journal import Journal, Piece
from robe.data.criteo.vocabulary import Vocabulary
from robe.data.criteo.work import DONE, parts, write_rows


@dataclass(frozen=True, eq=False)
class Scale:
    """Maps numbers to [0, 1], as scikit-learn's MinMaxScaler; without bounds it leaves them.

    Args:
        low: float64 [13], the smallest values, or None.
        high: float64 [13], the largest values, or None.
    """

    low: NDArray[np.float64] | None
    high: NDArray[np.float64] | None

    def __call__(self, dense: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scaled ``dense`` [n, 13]."""
        if self.low is None or self.high is None:
            return dense
        width = self.high - self.low
        factor = 1 / np.where(width == 0, 1, width)
        scaled = dense * factor - self.low * factor
        return scaled.astype(np.float32)


def assign_piece(folder: Path, piece: Piece, split: NDArray[np.uint8] | str) -> Piece:
    """Gives the rows of a piece to their splits; the shard is only cut where it holds several."""
    if "all" not in piece.shards:
        return piece
    if isinstance(split, str):
        return piece.model_copy(update={"shards": {split: piece.shards["all"]}, "clicks": {split: piece.clicks["all"]}})
    label, dense, ids = read_rows(folder / piece.shards["all"].file, "ids")
    return _written(folder, piece, label, dense, ids, split)


def encode_piece(
    folder: Path,
    piece: Piece,
    split: NDArray[np.uint8] | str,
    vocabularies: list[Vocabulary] | None,
    scale: Scale,
) -> Piece:
    """Writes the shards of a piece from its codes; ``vocabularies`` None keeps the tokens as ids."""
    finished = piece
    if piece.shards:
        label, dense, codes = read_rows(folder / piece.shards["all"].file)
        distinct = Distinct(folder / piece.shards["tokens"].file)
        known = vocabularies
        ids = distinct.ids(lambda f, tokens: known[f].lookup(tokens) if known else tokens)
        finished = _written(folder, piece, label, scale(dense), ids.take(codes), split)
    Journal(folder, DONE).commit(finished)
    return finished


def _written(
    folder: Path,
    piece: Piece,
    label: NDArray[np.float32],
    dense: NDArray[np.float32],
    ids: NDArray[np.int64],
    split: NDArray[np.uint8] | str,
) -> Piece:
    shards, clicks = {}, {}
    for name, rows in parts(split, len(label)):
        suffix = "all" if isinstance(split, str) else name
        shards[name] = write_rows(folder, piece.name, suffix, label[rows], dense[rows], ids[rows])
        clicks[name] = int(np.count_nonzero(label[rows]))
    return piece.model_copy(update={"shards": shards, "clicks": clicks})
