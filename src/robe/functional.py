"""Functional forms of the modules: arguments are checked here, once, and one op is called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from robe.checks import nearest, require_dtype, require_ndim, require_same_device
from robe.jagged import Jagged
from robe.layout import FieldSpec, Layout, Mode
from robe.ops import Prepared, Recorder, lookup, lookup_dot, lookup_quantized
from robe.quantization import check_quantized

ARRAY_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
MODES = {mode.name.lower(): mode for mode in Mode}


class Recording(Protocol):
    """An array whose gradients an optimizer may record."""

    @property
    def recorder(self) -> Recorder | None:
        """Where to, while there is such an optimizer."""


@dataclass(frozen=True, eq=False)
class Fields:
    """The input columns of a lookup, ready for the op: what a module builds once and keeps. See ``Fields.of``."""

    specs: Tensor  # int64 [F, 9]
    hash_spec: list[int]
    width: int  # sum of the fields' dims
    num_slots: int
    owner: Recording | None = None  # of the array
    _prepared: list[Prepared] = field(default_factory=list, init=False, repr=False)

    @staticmethod
    def of(
        layout: Layout,
        tables: Sequence[int | str] | None = None,
        padding: Sequence[int | None] | None = None,
        device: torch.device | str = "cpu",
    ) -> Fields:
        """Fields that look up tables of a layout.

        Args:
            layout: where elements live.
            tables: the table that each field looks up, by number or name; each table once by default.
            padding: padding id of each field, None for none.
            device: of the array.

        Raises:
            KeyError, IndexError: there is no such table.
        """
        rows = layout.field_specs(tables, padding)
        return Fields(
            specs=field_tensor(rows, device),
            hash_spec=list(layout.hash_spec()),
            width=sum(row.dim for row in rows),
            num_slots=layout.num_slots,
        )

    @property
    def num_fields(self) -> int:
        """F."""
        return self.specs.shape[0]

    @property
    def recorder(self) -> Recorder | None:
        """Takes what gradients are made of, for an optimizer of ``robe.optim``; None without one."""
        return None if self.owner is None else self.owner.recorder

    def prepared(self, array: Tensor, dtype: torch.dtype) -> Prepared:
        """What the compiled kernels know of these fields and an output of ``dtype``, made once."""
        if not self._prepared or not self._prepared[0].fits(self.specs, array, dtype):
            self._prepared[:] = [Prepared(self.specs, self.hash_spec, self.width, array.shape[0], array.dtype, dtype)]
        return self._prepared[0]


def field_tensor(rows: Sequence[FieldSpec], device: torch.device | str = "cpu") -> Tensor:
    """The op's ``fields`` argument, int64 [F, 9]."""
    return torch.tensor([list(row) for row in rows], dtype=torch.int64, device=device).view(-1, len(FieldSpec._fields))


def parse_mode(mode: str) -> Mode:
    """The mode of a name; raises ValueError for an unknown one."""
    if mode not in MODES:
        raise ValueError(f"mode: unknown {mode!r}; {nearest(str(mode), MODES)}")
    return MODES[mode]


def robe_lookup(
    ids: Tensor | Jagged,
    array: Tensor,
    fields: Fields,
    mode: str = "sum",
    *,
    scales: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Embeddings of all fields of a batch in one call.

    Args:
        ids: int64 or int32 [B, F], one id per field and sample; or ``Jagged`` bags of F fields, with weights in the
            dtype of ``array`` (of the embeddings, if it is int8).
        array: [m], float32, float64, bfloat16 or float16; int8 with ``scales``, without gradient.
        fields: the F input columns.
        mode: how a bag becomes one vector: "sum", "mean" or "max". Empty bags give zeros.
        scales: of an int8 array, float32 [ceil(m / 64)], from ``robe.quantization.quantize_array``.
        dtype: of the embeddings; that of ``array`` by default, float32 if it is int8. Those of an int8 array are
            rounded once, from float32; others are rounded to the dtype of ``array`` before.

    Returns:
        [B, W] in ``dtype``, the fields' embeddings side by side, W the sum of their dims.

    Raises:
        TypeError: a tensor or ``dtype`` has the wrong dtype.
        ValueError: a shape, a device or the mode is wrong.
        IndexError: an id is outside its table (on a GPU: a device-side assert).
    """
    kind = parse_mode(mode)
    _check_array(array, fields.num_slots, scales, dtype)
    if isinstance(ids, Jagged):
        if ids.num_fields != fields.num_fields:
            raise ValueError(f"ids: expected bags of {fields.num_fields} fields, got {ids.num_fields}")
        require_same_device("ids", ids.values, "array", array)
        weights = _check_weights(ids.weights, kind, array, dtype)
        return _call(array, scales, ids.values, ids.offsets, weights, fields, kind, dtype)
    ids = _check_ids(ids, fields, array)
    return _call(array, scales, ids, None, None, fields, Mode.SUM, dtype)


def robe_lookup_dot(ids: Tensor, dense: Tensor | None, array: Tensor, fields: Fields) -> Tensor:
    """Embeddings of one dim D and DLRM's dot interaction in one call.

    Args:
        ids: int64 or int32 [B, F].
        dense: a further vector of every sample, [B, D], or None.
        array: [m].
        fields: the F input columns, all of dim D.

    Returns:
        [B, D + G (G - 1) / 2] with ``dense``, else [B, G (G - 1) / 2], for the G = F + 1 (or F) vectors of a sample:
        ``dense``, then the dot products (1, 0), (2, 0), (2, 1), (3, 0), ...

    Raises:
        TypeError, ValueError, IndexError: as ``robe_lookup``, or the fields differ in dim.
    """
    _check_array(array, fields.num_slots)
    ids = _check_ids(ids, fields, array)
    dim, rest = divmod(fields.width, fields.num_fields)
    if rest:
        raise ValueError(f"fields: expected {fields.num_fields} fields of one dim, got {fields.width} columns in all")
    if dense is not None:
        require_dtype("dense", dense, array.dtype)
        require_same_device("dense", dense, "array", array)
        if dense.shape != (ids.shape[0], dim):
            raise ValueError(f"dense: expected shape {(ids.shape[0], dim)}, got {tuple(dense.shape)}")
    return lookup_dot(array, dense, ids, fields.specs, fields.hash_spec, fields.width, recorder=fields.recorder)


def robe_embedding(
    input: Tensor,
    array: Tensor,
    fields: Fields,
    *,
    scales: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The embeddings of ids of one table: ``torch.nn.functional.embedding`` with a ROBE array.

    Args:
        input: ids, int64 or int32 of any shape.
        array: [m].
        fields: a single field.
        scales: of an int8 array, as in ``robe_lookup``.
        dtype: of the embeddings, as in ``robe_lookup``.

    Returns:
        [*input.shape, D] in ``dtype``.

    Raises:
        TypeError, ValueError, IndexError: as ``robe_lookup``.
    """
    require_dtype("input", input, torch.int64, torch.int32)
    flat = robe_lookup(input.reshape(-1, 1).to(torch.int64), array, fields, scales=scales, dtype=dtype)
    return flat.view(*input.shape, fields.width)


def robe_embedding_bag(
    input: Tensor,
    array: Tensor,
    fields: Fields,
    offsets: Tensor | None = None,
    mode: str = "mean",
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    *,
    scales: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Pooled embeddings of bags of one table: ``torch.nn.functional.embedding_bag`` with a ROBE array.

    Args:
        input: ids, int64 or int32: [B, N], B bags of N ids, with ``offsets=None``; or [N] with ``offsets``.
        array: [m].
        fields: a single field.
        offsets: first position of each bag in ``input``, [B]; with ``include_last_offset`` also the end, [B + 1].
        mode: "sum", "mean" or "max". Empty bags give zeros.
        per_sample_weights: weight of each id, of the shape of ``input`` and dtype of ``array``; mode "sum" only.
        include_last_offset: the last offset is the end of the last bag.
        scales: of an int8 array, as in ``robe_lookup``; ``per_sample_weights`` then have the dtype of the embeddings.
        dtype: of the embeddings, as in ``robe_lookup``.

    Returns:
        [B, D] in ``dtype``.

    Raises:
        TypeError: a tensor has the wrong dtype.
        ValueError: a shape, a device or the mode is wrong, or ``offsets`` and the shape of ``input`` disagree.
        NotImplementedError: weights with a mode other than "sum".
        IndexError: an id is outside the table.
    """
    kind = parse_mode(mode)
    require_dtype("input", input, torch.int64, torch.int32)
    require_ndim("input", input, 1, 2)
    if per_sample_weights is not None and per_sample_weights.shape != input.shape:
        raise ValueError(
            f"per_sample_weights: expected the shape of input {tuple(input.shape)}, "
            f"got {tuple(per_sample_weights.shape)}"
        )
    ends = _bag_ends(input, offsets, include_last_offset)
    _check_array(array, fields.num_slots, scales, dtype)
    require_same_device("input", input, "array", array)
    weights = _check_weights(per_sample_weights, kind, array, dtype)
    if weights is not None:
        weights = weights.reshape(-1)
    ids = input.reshape(-1).to(torch.int64)
    return _call(array, scales, ids, ends, weights, fields, kind, dtype)


def _call(
    array: Tensor,
    scales: Tensor | None,
    ids: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    fields: Fields,
    mode: Mode,
    dtype: torch.dtype | None,
) -> Tensor:
    tail = (ids, offsets, weights, fields.specs, fields.hash_spec, fields.width, mode)
    if scales is not None:
        return lookup_quantized(array, scales, *tail, dtype or torch.float32, fields.prepared)
    found = lookup(array, *tail, fields.recorder, fields.prepared)
    return found if dtype is None else found.to(dtype)


def _bag_ends(input: Tensor, offsets: Tensor | None, include_last_offset: bool) -> Tensor:
    """Bag bounds, int64 [B + 1]."""
    if input.dim() == 2:
        if offsets is not None:
            raise ValueError("offsets: expected None with a 2-D input, whose rows are the bags")
        bags, size = input.shape
        return torch.arange(bags + 1, device=input.device) * size
    if offsets is None:
        raise ValueError("offsets: expected a 1-D tensor with a 1-D input, got None")
    require_dtype("offsets", offsets, torch.int64, torch.int32)
    require_ndim("offsets", offsets, 1)
    require_same_device("offsets", offsets, "input", input)
    ends = offsets.to(torch.int64)
    if include_last_offset:
        if ends.numel() == 0:
            raise ValueError("offsets: expected at least one element with include_last_offset=True")
        return ends
    return torch.cat([ends, ends.new_full((1,), input.numel())])


def _check_ids(ids: Tensor, fields: Fields, array: Tensor) -> Tensor:
    """Ids [B, F] as int64."""
    if ids.dtype != torch.int64:
        require_dtype("ids", ids, torch.int64, torch.int32)
        ids = ids.to(torch.int64)
    if ids.dim() != 2 or ids.shape[1] != fields.num_fields:
        raise ValueError(f"ids: expected shape [B, {fields.num_fields}], got {tuple(ids.shape)}")
    if ids.device != array.device:
        require_same_device("ids", ids, "array", array)
    return ids


def _check_array(array: Tensor, num_slots: int, scales: Tensor | None = None, dtype: torch.dtype | None = None) -> None:
    if scales is not None:
        check_quantized(array, scales, dtype or torch.float32)
    elif array.dtype not in ARRAY_DTYPES:
        require_dtype("array", array, *ARRAY_DTYPES)
    elif dtype not in (None, *ARRAY_DTYPES):
        raise TypeError(f"dtype: expected {' or '.join(map(str, ARRAY_DTYPES))}, got {dtype}")
    if array.dim() != 1 or array.shape[0] != num_slots:
        raise ValueError(f"array: expected shape [{num_slots}] as in the layout, got {tuple(array.shape)}")


def _check_weights(weights: Tensor | None, mode: Mode, array: Tensor, dtype: torch.dtype | None) -> Tensor | None:
    if weights is None:
        return None
    if mode != Mode.SUM:
        raise NotImplementedError(
            f"per_sample_weights: only mode='sum' takes weights, as in torch.nn.EmbeddingBag; got {mode.name.lower()!r}"
        )
    wanted = array.dtype if array.is_floating_point() else dtype or torch.float32
    require_dtype("per_sample_weights", weights, wanted)
    require_same_device("per_sample_weights", weights, "array", array)
    return weights
