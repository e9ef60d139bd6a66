"""From tokens to ids: direct hashes, or a vocabulary."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

DIRECT_DEFINITION: Final = (
    "the 8 bytes of BLAKE2b (digest size 8, no key, no salt) of the token's UTF-8 bytes, as a little-endian "
    "two's complement int64"
)
VOCABULARY_DEFINITION: Final = (
    "1 + the row of the token in the field's vocabulary file (tokens in order of first appearance); 0 for a token "
    "that is not in it"
)
RAW_DEFINITION: Final = "the integers of the column"

Lookup = Callable[[pl.Series], pl.Series]
"""Distinct tokens, a String series, to their ids, an Int64 series."""

_MERGE = 1 << 20  # distinct tokens that wait before they are merged into the counts


def direct_ids(tokens: pl.Series) -> pl.Series:
    """64-bit ids of ``tokens`` by :data:`DIRECT_DEFINITION`, the same for ever."""
    digests = b"".join([hashlib.blake2b(token.encode(), digest_size=8).digest() for token in tokens.to_list()])
    return pl.Series(np.frombuffer(digests, dtype="<i8").astype(np.int64, copy=False))


class Vocabulary:
    """Tokens of one field in order of first appearance, with their counts.

    Args:
        frame: columns ``token`` String and ``count`` Int64.
    """

    def __init__(self, frame: pl.DataFrame) -> None:
        self._frame = frame
        self._codes = frame.select("token", id=pl.int_range(1, len(frame) + 1, dtype=pl.Int64))

    @property
    def num_embeddings(self) -> int:
        """Rows of the table: the tokens and id 0."""
        return len(self._frame) + 1

    def ids(self, tokens: pl.Series) -> pl.Series:
        """Ids of ``tokens`` by :data:`VOCABULARY_DEFINITION`."""
        known = tokens.to_frame("token").with_row_index().join(self._codes, on="token", how="inner")
        ids = np.zeros(len(tokens), dtype=np.int64)
        ids[known["index"].to_numpy()] = known["id"].to_numpy()
        return pl.Series(ids)

    def save(self, file: Path) -> None:
        """Writes the tokens and counts as Parquet."""
        self._frame.write_parquet(file)

    @staticmethod
    def load(file: Path) -> Vocabulary:
        """Reads what :meth:`save` wrote."""
        return Vocabulary(pl.read_parquet(file))


class TokenCounter:
    """Counts the tokens of one field over many chunks."""

    def __init__(self) -> None:
        self._total = pl.DataFrame(schema={"token": pl.String, "count": pl.Int64})
        self._waiting: list[pl.DataFrame] = []
        self._waiting_rows = 0

    def add(self, tokens: pl.Series) -> None:
        """Counts ``tokens``, a String series or one of lists of them."""
        if isinstance(tokens.dtype, pl.List):
            tokens = tokens.explode().drop_nulls()
        frame = (
            tokens.to_frame("token").group_by("token", maintain_order=True).agg(pl.len().cast(pl.Int64).alias("count"))
        )
        self._waiting.append(frame)
        self._waiting_rows += len(frame)
        if self._waiting_rows > max(_MERGE, len(self._total)):
            self._merge()

    def vocabulary(self, min_count: int) -> Vocabulary:
        """The tokens seen at least ``min_count`` times."""
        self._merge()
        return Vocabulary(self._total.filter(pl.col("count") >= min_count))

    def _merge(self) -> None:
        frames = pl.concat([self._total, *self._waiting])
        self._total = frames.group_by("token", maintain_order=True).agg(pl.col("count").sum())
        self._waiting, self._waiting_rows = [], 0


def encode(tokens: pl.Series, lookup: Lookup) -> pl.Series:
    """Ids of ``tokens``, with one look-up per distinct token."""
    distinct = tokens.unique()
    table = pl.DataFrame({"token": distinct, "id": lookup(distinct)})
    return tokens.to_frame("token").join(table, on="token", how="left", maintain_order="left")["id"]


def encode_bags(tokens: pl.Series, lookup: Lookup | None) -> pa.ListArray:
    """Ids of a series of lists as an Arrow List<int64>; without ``lookup`` the lists hold ids already."""
    lists = tokens.rechunk().to_arrow()
    offsets = lists.offsets.to_numpy()
    values = pl.Series(pl.from_arrow(lists.flatten()))
    ids = (encode(values, lookup) if lookup else values).cast(pl.Int64)
    return pa.ListArray.from_arrays(pa.array((offsets - offsets[0]).astype(np.int32)), ids.to_arrow())
