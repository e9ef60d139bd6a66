"""What ROBE is compared with, behind the same contract: full tables and the hashing trick."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robe.checks import require_dtype, require_in_range
from robe.functional import parse_mode
from robe.hashing import UniversalHash, place
from robe.jagged import Jagged
from robe.layout import Table, check_tables, resolve_num_slots, table_index
from robe.nn.base import DescribedModule
from robe.nn.collection import common_dim, field_tables


class _TableCollection(DescribedModule):
    """One ``nn.EmbeddingBag`` per table, of ``rows[t]`` rows; subclasses say how ids become rows."""

    def __init__(
        self,
        tables: Sequence[Table],
        rows: Sequence[int],
        fields: Sequence[int | str] | None,
        mode: str,
        sparse: bool,
        init_std: float,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.tables = tuple(tables)
        columns = field_tables(self.tables, fields)
        parse_mode(mode)
        self.mode, self.sparse, self.init_std = mode, sparse, init_std
        self._columns = fields
        self.num_fields = len(columns)
        self.embedding_dim = common_dim(columns)
        self._column_tables = [self.tables.index(t) for t in columns]
        self.embeddings = nn.ModuleList(
            nn.EmbeddingBag(r, t.embedding_dim, mode=mode, sparse=sparse, device=device, dtype=dtype)
            for t, r in zip(self.tables, rows, strict=True)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws every table from N(0, init_std**2), with torch's global generator."""
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=self.init_std)

    def _bag(self, t: int) -> nn.EmbeddingBag:
        return cast(nn.EmbeddingBag, self.embeddings[t])

    @property
    def num_embedding_parameters(self) -> int:
        """Parameters really stored."""
        return sum(p.numel() for p in self.parameters())

    @property
    def full_parameters(self) -> int:
        """Parameters of the full tables."""
        return sum(t.full_parameters for t in self.tables)

    @property
    def compression(self) -> float:
        """Full tables over what is stored."""
        return self.full_parameters / self.num_embedding_parameters

    def rows(self, table: int, ids: Tensor) -> Tensor:
        """The stored row of each id: int64 [N] -> int64 [N]."""
        raise NotImplementedError

    def forward(self, ids: Tensor | Jagged) -> Tensor:
        """Embeddings of a batch.

        Args:
            ids: int64 [B, F], or ``robe.Jagged`` bags.

        Returns:
            [B, F, D]; if the fields differ in D, [B, sum of dims], side by side.

        Raises:
            IndexError: an id is outside its table.
        """
        if isinstance(ids, Jagged):
            if ids.num_fields != self.num_fields:
                raise ValueError(f"ids: expected bags of {self.num_fields} fields, got {ids.num_fields}")
            columns = [self._bags(f, ids) for f in range(self.num_fields)]
        else:
            require_dtype("ids", ids, torch.int64, torch.int32)
            if ids.dim() != 2 or ids.shape[1] != self.num_fields:
                raise ValueError(f"ids: expected shape [B, {self.num_fields}], got {tuple(ids.shape)}")
            columns = [  # bags of one id, which ``F.embedding`` takes in half the time
                F.embedding(self._checked_rows(t, ids[:, f]), self._bag(t).weight, sparse=self.sparse)
                for f, t in enumerate(self._column_tables)
            ]
        return torch.cat(columns, dim=1) if self.embedding_dim is None else torch.stack(columns, dim=1)

    def _bags(self, f: int, ids: Jagged) -> Tensor:
        values, offsets, weights = ids.field(f)
        t = self._column_tables[f]
        pooled: Tensor = self._bag(t)(self._checked_rows(t, values), offsets[:-1], weights)
        return pooled

    def _checked_rows(self, table: int, ids: Tensor) -> Tensor:
        ids = ids.to(torch.int64)
        require_in_range(f"ids of table {self.tables[table].name!r}", ids, self.tables[table].num_embeddings or -1)
        return self.rows(table, ids)

    @torch.no_grad()
    def materialize(self, table: int | str = 0) -> Tensor:
        """The dense twin of a table: [rows, D], detached."""
        t = self._index(table)
        every = torch.arange(self.tables[t].num_embeddings or 0, device=next(self.parameters()).device)
        return self._bag(t).weight.detach()[self.rows(t, every)]

    def slots(self, table: int | str, ids: Tensor) -> Tensor:
        """Where each element lives, counted over the tables one after the other: int64 [N] -> int64 [N, D]."""
        t = self._index(table)
        before = sum(self._bag(earlier).weight.numel() for earlier in range(t))
        dim = self.tables[t].embedding_dim
        return before + self._checked_rows(t, ids).unsqueeze(-1) * dim + torch.arange(dim, device=ids.device)

    def _of_dim_1(self) -> list[Table]:
        return [replace(table, embedding_dim=1) for table in self.tables]

    def _common(self) -> dict[str, Any]:
        """Arguments that a collection of the same fields takes over."""
        weight = self._bag(0).weight
        return {
            "fields": self._columns, "mode": self.mode, "init_std": self.init_std,
            "device": weight.device, "dtype": weight.dtype,
        }  # fmt: skip

    def _index(self, table: int | str) -> int:
        return table_index(self.tables, table)

    def description(self) -> dict[str, Any]:
        """The stored rows and dim of every table."""
        sizes = [[self._bag(t).num_embeddings, table.embedding_dim] for t, table in enumerate(self.tables)]
        return {"version": 1, "stored": sizes}

    def extra_repr(self) -> str:
        """Sizes and mode."""
        return f"{len(self.tables)} tables, mode={self.mode!r}, compression={self.compression:.4g}"


class FullEmbeddingCollection(_TableCollection):
    """A full table of rows x D for every categorical feature: what ROBE replaces.

    Args:
        tables: the tables, each with ``num_embeddings``.
        fields: the table that each input column looks up; each table once by default.
        mode: how a bag becomes one vector: "sum", "mean" or "max" (which takes no sparse gradients).
        sparse: gradients are sparse tensors, for SGD, Adagrad and SparseAdam.
        init_std: standard deviation of the initial N(0, std**2).
        device: of the tables.
        dtype: of the tables and of the embeddings.

    Raises:
        ValueError: a table has no ``num_embeddings``, or an argument is wrong.
    """

    def __init__(
        self,
        tables: Sequence[Table],
        *,
        fields: Sequence[int | str] | None = None,
        mode: str = "sum",
        sparse: bool = False,
        init_std: float = 0.01,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_tables(tables)
        rows = [t.full_parameters // t.embedding_dim for t in tables]
        super().__init__(tables, rows, fields, mode, sparse, init_std, device, dtype)

    def rows(self, table: int, ids: Tensor) -> Tensor:
        """The id itself."""
        return ids

    def first_order(self) -> FullEmbeddingCollection:
        """A collection of dim 1 for the same fields, with tables of its own: weights of first-order terms."""
        return FullEmbeddingCollection(self._of_dim_1(), sparse=self.sparse, **self._common())


class HashingTrickCollection(_TableCollection):
    """The hashing trick (Weinberger et al. 2009): ids of a table share the rows of a smaller one.

    Exactly one of ``num_slots``, ``compression`` and ``memory`` sets the parameters of all tables together. By
    default every table shrinks by the same factor, to at least one row. With ``capped=True`` every table keeps its
    rows up to one common bound, so that small tables stay exact; only larger ones are hashed.

    Args:
        tables: the tables, each with ``num_embeddings``.
        num_slots: parameters of all tables together.
        compression: full tables together over what is stored.
        memory: bytes, such as "64MB".
        capped: keep small tables exact.
        fields: the table that each input column looks up; each table once by default.
        mode: how a bag becomes one vector.
        sparse: gradients are sparse tensors.
        seed: of the hash.
        init_std: standard deviation of the initial N(0, std**2).
        device: of the tables.
        dtype: of the tables and of the embeddings.

    Raises:
        ValueError: a table has no ``num_embeddings``, or an argument is wrong.
    """

    def __init__(
        self,
        tables: Sequence[Table],
        *,
        num_slots: int | None = None,
        compression: float | None = None,
        memory: str | int | None = None,
        capped: bool = False,
        fields: Sequence[int | str] | None = None,
        mode: str = "sum",
        sparse: bool = False,
        seed: int = 0,
        init_std: float = 0.01,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_tables(tables)
        budget = resolve_num_slots(tables, num_slots, compression, memory, dtype or torch.get_default_dtype())
        rows = _capped_rows(tables, budget) if capped else _proportional_rows(tables, budget)
        self.hash = UniversalHash(seed)
        self.capped = capped
        super().__init__(tables, rows, fields, mode, sparse, init_std, device, dtype)

    def rows(self, table: int, ids: Tensor) -> Tensor:
        """``h(e, x) mod rows`` for a hashed table, the id itself for an exact one."""
        stored = self._bag(table).num_embeddings
        if stored == self.tables[table].num_embeddings:
            return ids
        spec = self.hash.spec(block_size=1, num_slots=stored, use_sign=False)
        return place(ids, self.hash.addend(table, 0), 1, spec).squeeze(-1)

    def first_order(self) -> HashingTrickCollection:
        """A collection of dim 1 for the same fields, of as many rows: weights of first-order terms."""
        rows = sum(self._bag(t).num_embeddings for t in range(len(self.tables)))
        return HashingTrickCollection(
            self._of_dim_1(), num_slots=rows, capped=self.capped, seed=self.hash.seed, sparse=self.sparse,
            **self._common(),
        )  # fmt: skip

    def description(self) -> dict[str, Any]:
        """The hash, and the stored and original rows of every table."""
        return super().description() | {"hash": self.hash.to_dict(), "rows": [t.num_embeddings for t in self.tables]}

    def extra_repr(self) -> str:
        """Sizes, mode and hash."""
        capped = ", capped" if self.capped else ""
        return f"{super().extra_repr()}, hash={type(self.hash).__name__}(seed={self.hash.seed}){capped}"


def _proportional_rows(tables: Sequence[Table], budget: int) -> list[int]:
    share = min(1.0, budget / sum(t.full_parameters for t in tables))
    return [max(1, round((t.num_embeddings or 0) * share)) for t in tables]


def _capped_rows(tables: Sequence[Table], budget: int) -> list[int]:
    """Rows under the largest common bound that keeps the tables within the budget."""
    sizes = [t.num_embeddings or 0 for t in tables]

    def parameters(bound: int) -> int:
        return sum(min(n, bound) * t.embedding_dim for n, t in zip(sizes, tables, strict=True))

    low, high = 1, max(sizes)
    while low < high:
        middle = math.ceil((low + high) / 2)
        low, high = (middle, high) if parameters(middle) <= budget else (low, middle - 1)
    return [min(n, low) for n in sizes]
