"""Ids and bags of an op call: which field and bag an id belongs to, and the errors for those that are wrong."""

import torch
from torch import Tensor

from robe.layout import FieldSpec


def batch_size(ids: Tensor, offsets: Tensor | None, fields: Tensor) -> int:
    """B, from whichever form the ids have."""
    if offsets is None:
        return ids.shape[0]
    return (offsets.shape[0] - 1) // fields.shape[0]


def bag_of_id(offsets: Tensor) -> Tensor:
    """Number f * B + b of every id, int64 [N]."""
    return torch.repeat_interleave(offsets.diff())


def field_of_id(offsets: Tensor, num_fields: int) -> Tensor:
    """Field f of every id, int64 [N]."""
    size = (offsets.numel() - 1) // num_fields
    return bag_of_id(offsets) // max(size, 1)


def check_ids(ids: Tensor, offsets: Tensor | None, fields: Tensor, rows: list[FieldSpec]) -> None:
    """Ids within their tables and offsets within the ids: errors on CPU, device-side asserts elsewhere.

    Raises:
        IndexError: an id is outside its table.
        ValueError: offsets do not start at 0, fall, or do not end at the number of ids.
    """
    if offsets is not None:
        ordered = (offsets[0] == 0) & (offsets[-1] == ids.numel()) & (offsets.diff() >= 0).all()
        _require(ordered, ValueError, f"offsets: expected to start at 0, never fall, and end at {ids.numel()}, the ids")
    if all(row.rows < 0 for row in rows):
        return
    limit = fields[:, FieldSpec._fields.index("rows")]
    if offsets is not None:
        limit = limit[field_of_id(offsets, len(rows))]
    outside = (limit >= 0) & ((ids < 0) | (ids >= limit))
    if outside.device.type != "cpu" or not outside.any():
        _require(~outside.any(), IndexError, "ids: index out of range")
        return
    where = outside.nonzero()[0]
    bad, bound = int(ids[tuple(where)]), int(limit.expand_as(ids)[tuple(where)])
    raise IndexError(f"ids: index out of range: expected ids in [0, {bound}), got {bad} at position {where.tolist()}")


def _require(condition: Tensor, error: type[Exception], message: str) -> None:
    if condition.device.type != "cpu":
        torch._assert_async(condition, message)
    elif not bool(condition):
        raise error(message)
