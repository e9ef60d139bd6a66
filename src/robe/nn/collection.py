"""All embedding tables of a model in one array: the form in which ROBE is meant to be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from robe.functional import parse_mode, robe_lookup, robe_lookup_dot
from robe.hashing import Hash, ReleasedHash
from robe.jagged import Jagged
from robe.layout import Table, check_tables, table_index
from robe.nn.array import RobeArray
from robe.nn.base import RobeModule, describe
from robe.nn.embedding import make_layout, shared_array
from robe.ops import fuses_dot


def field_tables(tables: Sequence[Table], fields: Sequence[int | str] | None) -> list[Table]:
    """The table of every input column; each table once by default."""
    if fields is None:
        return list(tables)
    return [tables[table_index(tables, f)] for f in fields]


def common_dim(tables: Sequence[Table]) -> int | None:
    """D, or None if the tables differ in it."""
    dims = {t.embedding_dim for t in tables}
    return dims.pop() if len(dims) == 1 else None


class RobeEmbeddingCollection(RobeModule):
    """The tables of a model, of any dims, in one shared array.

    Exactly one of ``num_slots``, ``compression``, ``memory`` and ``array`` sets the size. The array is the only
    parameter, so the collection has as many parameters as slots.

    Args:
        tables: the tables; their order numbers them in the hash.
        num_slots: m, the size of the array.
        compression: full tables together over array, such as 1000.
        memory: bytes of the array, such as "64MB".
        block_size: Z; the smallest D among the tables by default (ROBE-D).
        fields: the table that each input column looks up, by name or number; each table once by default.
        mode: how a bag becomes one vector: "sum", "mean" or "max".
        seed: of the hash, if ``hash`` is not given.
        use_sign: multiply elements by the sign hash g.
        array: share the array of a ``RobeArray`` or of another ROBE module.
        hash: the hash form, with its own seed.
        init_std: standard deviation of the initial N(0, std**2).
        device: of the array.
        dtype: of the array and, by default, of the embeddings.
        output_dtype: of the embeddings, such as float32 for a model whose array alone is bfloat16; see ``RobeArray``.

    Raises:
        TypeError, ValueError: an argument is wrong.
    """

    def __init__(
        self,
        tables: Sequence[Table],
        *,
        num_slots: int | None = None,
        compression: float | None = None,
        memory: str | int | None = None,
        block_size: int | None = None,
        fields: Sequence[int | str] | None = None,
        mode: str = "sum",
        seed: int = 0,
        use_sign: bool = False,
        array: RobeArray | RobeModule | None = None,
        hash: Hash | None = None,
        init_std: float = 0.01,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        output_dtype: torch.dtype | None = None,
    ) -> None:
        tables = list(tables)
        check_tables(tables)
        columns = field_tables(tables, fields)
        parse_mode(mode)
        shared = shared_array(
            tables, array, num_slots, compression, memory, init_std, 0.01, device, dtype, output_dtype
        )
        layout = make_layout(tables, shared, block_size, seed, use_sign, hash)
        super().__init__(layout, shared, tables=fields)
        self.mode = mode
        self.num_fields = len(columns)
        self.embedding_dim = common_dim(columns)
        self._columns = fields

    @property
    def tables(self) -> tuple[Table, ...]:
        """The tables, in the order that numbers them."""
        return self.layout.tables

    @property
    def num_embedding_parameters(self) -> int:
        """Parameters really stored: m, and the scales of an int8 array."""
        scales = self.shared.scales
        return self.layout.num_slots + (0 if scales is None else scales.numel())

    @property
    def full_parameters(self) -> int:
        """Parameters of the full tables."""
        return self.layout.full_parameters

    @property
    def compression(self) -> float:
        """Full tables over array, in numbers; of an int8 array these are smaller too: see ``nbytes``."""
        return self.full_parameters / self.num_embedding_parameters

    def forward(self, ids: Tensor | Jagged) -> Tensor:
        """Embeddings of a batch.

        Args:
            ids: int64 [B, F], or ``robe.Jagged`` bags.

        Returns:
            [B, F, D]; if the fields differ in D, [B, sum of dims], side by side.

        Raises:
            IndexError: an id is outside its table.
        """
        array, shared = self.array, self.shared
        flat = robe_lookup(ids, array, self._ready(array), self.mode, scales=shared.scales, dtype=shared.output_dtype)
        if self.embedding_dim is None:
            return flat
        return flat.view(flat.shape[0], self.num_fields, self.embedding_dim)

    def first_order(self) -> RobeEmbeddingCollection:
        """A collection of dim 1 for the same fields: weights of first-order terms, in slots of the same array.

        Its tables are numbered after these, so that weights are placed independently of the embeddings.

        Raises:
            ValueError: the hash is the released one, which does not number tables, or there are direct tables, whose
                rows the weights would be hashed onto.
        """
        layout = self.layout
        if isinstance(layout.hash, ReleasedHash):
            raise ValueError(  # noqa: TRY004
                "first_order: the released hash does not number tables; tie the weights, as its authors did"
            )
        if len(layout.hashed_tables) < len(layout.tables):
            raise ValueError(
                "first_order: weights of their own would be hashed onto the rows of direct tables; tie them"
            )
        following = 1 + max(layout.table_id(i) for i in range(len(layout.tables)))
        tables = [replace(t, embedding_dim=1, table_id=following + i) for i, t in enumerate(layout.tables)]
        return RobeEmbeddingCollection(
            tables, block_size=layout.block_size, fields=self._columns, mode=self.mode, use_sign=layout.use_sign,
            array=self, hash=layout.hash,
        )  # fmt: skip

    def fuses_dot(self, ids: Tensor | Jagged, dense: Tensor | None = None) -> bool:
        """Whether ``dot(ids, dense)`` has a kernel of its own: one id per field, one dim, float32 on CPU.

        On CUDA also bfloat16 and float16, and up to 64 vectors per sample. Never with int8 or another ``output_dtype``.
        """
        groups = self.num_fields + (dense is not None)
        dtypes = {self.array.dtype, self.shared.output_dtype or self.array.dtype}
        if dense is not None:
            dtypes.add(dense.dtype)
        return (
            isinstance(ids, Tensor)
            and self.embedding_dim is not None
            and len(dtypes) == 1
            and fuses_dot(self.array, groups)
        )

    def dot(self, ids: Tensor, dense: Tensor | None = None) -> Tensor:
        """The embeddings of a batch and DLRM's dot interaction, without the embeddings in memory.

        Args:
            ids: int64 [B, F].
            dense: a further vector of every sample, [B, D], or None.

        Returns:
            [B, D + G (G - 1) / 2], ``dense`` and the dot products of the G = F + 1 vectors of a sample, in the order of
            ``robe.nn.DotInteraction``; without ``dense`` [B, F (F - 1) / 2].

        Raises:
            IndexError: an id is outside its table.
            ValueError: the fields differ in D, or a shape is wrong.
        """
        if self.embedding_dim is None:
            raise ValueError("dot: expected fields of one common embedding_dim")
        array = self.array
        return robe_lookup_dot(ids, dense, array, self._ready(array))

    def extra_repr(self) -> str:
        """Number of tables and fields, size, Z and hash."""
        return f"{len(self.tables)} tables, {self.num_fields} fields, {describe(self.layout)}"
