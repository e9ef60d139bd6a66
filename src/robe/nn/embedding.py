"""Drop-in twins of ``torch.nn.Embedding`` and ``torch.nn.EmbeddingBag`` over a ROBE array."""

from __future__ import annotations

import torch
from torch import Tensor

from robe.functional import parse_mode, robe_embedding, robe_embedding_bag
from robe.hashing import Hash, UniversalHash
from robe.layout import Layout, Table, resolve_num_slots
from robe.nn.array import RobeArray
from robe.nn.base import RobeModule, describe


class RobeEmbedding(RobeModule):
    """``torch.nn.Embedding`` whose rows live in a small shared array (ROBE-Z).

    Takes the arguments of its twin in the same order, with the same defaults, and then its own. Exactly one of
    ``num_slots``, ``compression``, ``memory`` and ``array`` sets the size.

    Args:
        num_embeddings: rows. Ids are in [0, rows); None allows any int64 id, without a vocabulary.
        embedding_dim: D.
        padding_idx: this id gives zeros and contributes no gradient. Negative counts from the end, as in torch,
            if ``num_embeddings`` is given.
        max_norm: not supported: rows share slots, so renormalising one changes others.
        norm_type: only with ``max_norm``.
        scale_grad_by_freq: not supported: a slot's gradient comes from many ids.
        sparse: not supported: the gradient of a small array is dense.
        _weight: not supported: a full table does not fit into the array.
        _freeze: the array takes no gradient.
        device: of the array.
        dtype: of the array and of the embeddings.
        num_slots: m, the size of the array.
        compression: full table over array, such as 1000.
        memory: bytes of the array, such as "64MB".
        block_size: Z; ``embedding_dim`` by default (ROBE-D).
        seed: of the hash, if ``hash`` is not given.
        use_sign: multiply elements by the sign hash g.
        array: share the array of a ``RobeArray`` or of another ROBE module, instead of making one.
        table_id: number of this table in the hash, 0 by default. Needed with ``array``: tables that share an array
            have different numbers, and the same number is the same table.
        hash: the hash form, with its own seed.
        init_std: standard deviation of the initial N(0, std**2); 1, as in torch, by default. Models of click-through
            rates want it small (0.01 or less).

    Raises:
        NotImplementedError: an argument of torch that cannot be honoured.
        TypeError, ValueError: an argument is wrong.
    """

    def __init__(
        self,
        num_embeddings: int | None,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: Tensor | None = None,
        _freeze: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        num_slots: int | None = None,
        compression: float | None = None,
        memory: str | int | None = None,
        block_size: int | None = None,
        seed: int = 0,
        use_sign: bool = False,
        array: RobeArray | RobeModule | None = None,
        table_id: int | None = None,
        hash: Hash | None = None,
        init_std: float = 1.0,
    ) -> None:
        _refuse_unsupported(max_norm, norm_type, scale_grad_by_freq, sparse, _weight)
        if _freeze and array is not None:
            raise ValueError(
                "_freeze: would freeze every embedding of the shared array; call array.requires_grad_(False)"
            )
        table = Table("table", num_embeddings, embedding_dim, table_id=_table_id(table_id, array))
        padding_idx = _padding(padding_idx, num_embeddings)
        shared = shared_array([table], array, num_slots, compression, memory, init_std, 1.0, device, dtype)
        layout = make_layout([table], shared, block_size, seed, use_sign, hash)
        super().__init__(layout, shared, padding=[padding_idx])
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = padding_idx
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        self.sparse = sparse
        if _freeze:
            self.array.requires_grad_(False)

    def forward(self, input: Tensor) -> Tensor:
        """Embeddings of ids.

        Args:
            input: int64 or int32 of any shape.

        Returns:
            [*input.shape, D].

        Raises:
            IndexError: an id is outside the table.
        """
        array, shared = self.array, self.shared
        return robe_embedding(input, array, self._ready(array), scales=shared.scales, dtype=shared.output_dtype)

    def extra_repr(self) -> str:
        """Shape, padding, size, Z and hash."""
        padding = "" if self.padding_idx is None else f"padding_idx={self.padding_idx}, "
        return f"{self.num_embeddings}, {self.embedding_dim}, {padding}{describe(self.layout)}"


class RobeEmbeddingBag(RobeModule):
    """``torch.nn.EmbeddingBag`` whose rows live in a small shared array (ROBE-Z).

    Takes the arguments of its twin in the same order, with the same defaults, and then those of ``RobeEmbedding``.

    Args:
        num_embeddings: rows; None allows any int64 id.
        embedding_dim: D.
        max_norm: not supported.
        norm_type: only with ``max_norm``.
        scale_grad_by_freq: not supported.
        mode: "sum", "mean" (the default, as in torch) or "max".
        sparse: not supported.
        _weight: not supported.
        include_last_offset: ``offsets`` ends with the end of the last bag.
        padding_idx: this id is left out of its bag: no value, no gradient, not counted by "mean".
        device: of the array.
        dtype: of the array and of the embeddings.
        num_slots: as in ``RobeEmbedding``, like all that follow.
        compression: full table over array.
        memory: bytes of the array.
        block_size: Z.
        seed: of the hash.
        use_sign: multiply elements by the sign hash g.
        array: share the array of another module.
        table_id: number of this table in the hash.
        hash: the hash form.
        init_std: standard deviation of the initial values.

    Raises:
        NotImplementedError: an argument of torch that cannot be honoured.
        TypeError, ValueError: an argument is wrong.
    """

    def __init__(
        self,
        num_embeddings: int | None,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        _weight: Tensor | None = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        num_slots: int | None = None,
        compression: float | None = None,
        memory: str | int | None = None,
        block_size: int | None = None,
        seed: int = 0,
        use_sign: bool = False,
        array: RobeArray | RobeModule | None = None,
        table_id: int | None = None,
        hash: Hash | None = None,
        init_std: float = 1.0,
    ) -> None:
        _refuse_unsupported(max_norm, norm_type, scale_grad_by_freq, sparse, _weight)
        parse_mode(mode)
        table = Table("table", num_embeddings, embedding_dim, table_id=_table_id(table_id, array))
        padding_idx = _padding(padding_idx, num_embeddings)
        shared = shared_array([table], array, num_slots, compression, memory, init_std, 1.0, device, dtype)
        layout = make_layout([table], shared, block_size, seed, use_sign, hash)
        super().__init__(layout, shared, padding=[padding_idx])
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = padding_idx
        self.mode = mode
        self.include_last_offset = include_last_offset
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        self.sparse = sparse

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        """Pooled embeddings of bags.

        Args:
            input: ids, int64 or int32: [B, N], or [N] with ``offsets``.
            offsets: first position of each bag, [B] ([B + 1] with ``include_last_offset``); None for 2-D input.
            per_sample_weights: weight of each id, of the shape of ``input``; mode "sum" only.

        Returns:
            [B, D]; zeros for empty bags.

        Raises:
            IndexError: an id is outside the table.
            ValueError: ``input`` and ``offsets`` do not fit together.
        """
        array, shared = self.array, self.shared
        return robe_embedding_bag(
            input,
            array,
            self._ready(array),
            offsets,
            mode=self.mode,
            per_sample_weights=per_sample_weights,
            include_last_offset=self.include_last_offset,
            scales=shared.scales,
            dtype=shared.output_dtype,
        )

    def extra_repr(self) -> str:
        """Shape, mode, padding, size, Z and hash."""
        padding = "" if self.padding_idx is None else f"padding_idx={self.padding_idx}, "
        return f"{self.num_embeddings}, {self.embedding_dim}, mode={self.mode!r}, {padding}{describe(self.layout)}"


def shared_array(
    tables: list[Table],
    array: RobeArray | RobeModule | None,
    num_slots: int | None,
    compression: float | None,
    memory: str | int | None,
    init_std: float,
    default_std: float,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
    output_dtype: torch.dtype | None = None,
) -> RobeArray:
    """The array that was given, or a new one of the size that was asked for."""
    if array is None:
        wanted = dtype or torch.get_default_dtype()
        if not wanted.is_floating_point:
            raise TypeError(f"dtype: expected a floating-point dtype, got {wanted}")
        slots = resolve_num_slots(tables, num_slots, compression, memory, wanted)
        return RobeArray(slots, init_std, device, dtype, output_dtype)
    if (num_slots, compression, memory) != (None, None, None):
        raise ValueError("array: has its own size; leave out num_slots=, compression= and memory=")
    shared = array.shared if isinstance(array, RobeModule) else array
    if not isinstance(shared, RobeArray):
        raise TypeError(f"array: expected a robe.RobeArray or a ROBE module, got {type(shared).__name__}")
    own = {
        "dtype": (dtype, shared.array.dtype),
        "output_dtype": (output_dtype, shared.output_dtype),
        "device": (device and torch.device(device), shared.array.device),
    }
    for name, (wanted_one, has) in own.items():
        if wanted_one is not None and wanted_one != has:
            raise ValueError(f"{name}: the shared array has {has}, got {wanted_one}; leave it out, or move the array")
    if init_std != default_std:
        raise ValueError("init_std: the shared array has its initial values already; give init_std to robe.RobeArray")
    return shared


def make_layout(
    tables: list[Table],
    shared: RobeArray,
    block_size: int | None,
    seed: int,
    use_sign: bool,
    hash: Hash | None,
) -> Layout:
    """A layout of ``tables`` over ``shared``; Z is the smallest D unless given."""
    if hash is not None and seed != 0:
        raise ValueError(f"seed: a hash given with hash= carries its own seed; leave out seed={seed}")
    return Layout(
        tables=tuple(tables),
        num_slots=shared.array.numel(),
        block_size=min(t.embedding_dim for t in tables) if block_size is None else block_size,
        hash=UniversalHash(seed) if hash is None else hash,
        use_sign=use_sign,
    )


def _table_id(table_id: int | None, array: RobeArray | RobeModule | None) -> int:
    if table_id is not None:
        return table_id
    if array is not None:
        raise ValueError(
            "table_id: needed with array=, for equal ids of two tables with one number are one embedding; "
            "give every table that shares the array a number of its own"
        )
    return 0


def _padding(padding_idx: int | None, num_embeddings: int | None) -> int | None:
    if padding_idx is None or num_embeddings is None:
        return padding_idx
    if not -num_embeddings <= padding_idx < num_embeddings:
        raise ValueError(f"padding_idx: expected a value within num_embeddings={num_embeddings}, got {padding_idx}")
    return padding_idx % num_embeddings


def _refuse_unsupported(
    max_norm: float | None, norm_type: float, scale_grad_by_freq: bool, sparse: bool, weight: Tensor | None
) -> None:
    if max_norm is not None:
        raise NotImplementedError(
            "max_norm: rows share slots, so renormalising one row changes others; clip gradients or use weight decay"
        )
    if norm_type != 2.0:
        raise NotImplementedError("norm_type: has a meaning with max_norm only, which ROBE cannot honour")
    if scale_grad_by_freq:
        raise NotImplementedError(
            "scale_grad_by_freq: a slot's gradient is the sum over many ids, so there is no frequency of one row"
        )
    if sparse:
        raise NotImplementedError(
            "sparse: the gradient of the shared array is dense, and small; use any dense optimizer"
        )
    if weight is not None:
        raise NotImplementedError("_weight: a full table does not fit into the array; train, or copy into .array")
