"""The ops on tensors of a GPU: arguments as in ``robe.ops.contract``."""

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from robe.ops.bags import batch_size
from robe.ops.triton.backward import backward_bags_kernel, backward_kernel, backward_weights_kernel
from robe.ops.triton.interaction import lookup_dot as lookup_dot
from robe.ops.triton.interaction import lookup_dot_backward as lookup_dot_backward
from robe.ops.triton.launch import Tile, accumulator, ceil_div, launch, streams, tile_of
from robe.ops.triton.lookup import lookup_bags_kernel, lookup_kernel
from robe.ops.triton.plan import Plan, plan_of
from robe.ops.triton.segments import NOWHERE, sum_pieces
from robe.quantization import check_quantized

TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}


def lookup(
    array: Tensor,
    ids: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    fields: Tensor,
    spec: list[int],
    width: int,
    mode: int,
) -> Tensor:
    """Embeddings of all fields, [B, W]."""
    return _lookup(array, None, ids, offsets, weights, fields, spec, width, mode, array.dtype)


def lookup_quantized(
    array: Tensor,
    scales: Tensor,
    ids: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    fields: Tensor,
    spec: list[int],
    width: int,
    mode: int,
    dtype: torch.dtype,
) -> Tensor:
    """Embeddings of an int8 array, [B, W] in ``dtype``."""
    check_quantized(array, scales, dtype)
    return _lookup(array, scales.contiguous(), ids, offsets, weights, fields, spec, width, mode, dtype)


def _lookup(
    array: Tensor,
    scales: Tensor | None,
    ids: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    fields: Tensor,
    spec: list[int],
    width: int,
    mode: int,
    dtype: torch.dtype,
) -> Tensor:
    plan = plan_of(fields, spec, array, width)
    array = array.contiguous()
    samples = batch_size(ids, offsets, fields)
    out = array.new_empty(samples, width, dtype=dtype)
    if offsets is None:
        tile = tile_of(plan)
        launch(
            lookup_kernel,
            _row_tiles(plan, tile, samples),
            array,
            array,
            scales,
            ids.contiguous(),
            plan.table,
            plan.constants,
            out,
            samples,
            len(plan.rows),
            width,
            plan.segment,
            COMMON_DIM=plan.common_dim,
            STREAM=streams(out),
            **tile.constants,
            **plan.flags,
        )
        return out
    tile = tile_of(plan, bags=True)
    launch(
        lookup_bags_kernel,
        _bag_tiles(plan, tile, samples),
        array,
        array,
        scales,
        *_bags(ids, offsets, weights),
        plan.table,
        plan.constants,
        out,
        ids.numel(),
        samples,
        len(plan.rows),
        width,
        plan.segment,
        MODE=int(mode),
        ACCUMULATOR=TYPES[accumulator(array.dtype)],
        **tile.constants,
        **plan.flags,
    )
    return out


def lookup_backward_array(
    grad: Tensor,
    array: Tensor,
    ids: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    fields: Tensor,
    spec: list[int],
    mode: int,
) -> Tensor:
    """Gradient of the array, [m]; atomic, or in a fixed order under ``torch.use_deterministic_algorithms``."""
    total = gradient(grad, array, ids, offsets, weights, fields, spec, mode)
    return total.to(array.dtype)


def gradient(
    grad: Tensor,
    array: Tensor,
    ids: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    fields: Tensor,
    spec: list[int],
    mode: int,
) -> Tensor:
    """Gradient of the array in the accumulator's dtype, [m]."""
    dtype = accumulator(array.dtype)
    if not torch.are_deterministic_algorithms_enabled():
        total = torch.zeros_like(array, dtype=dtype, memory_format=torch.contiguous_format)
        add_gradient(total, 1.0, grad, array, ids, offsets, weights, fields, spec, mode)
        return total
    plan = plan_of(fields, spec, array, grad.shape[1])
    tile = tile_of(plan, bags=offsets is not None, small=True)
    pieces = ceil_div(plan.max_dim, tile.piece)
    starts = ids.new_full((ids.numel(), pieces), NOWHERE)
    values = torch.empty((*starts.shape, tile.piece), dtype=dtype, device=array.device)
    _scatter(values, starts, plan, tile, 1.0, grad, array, ids, offsets, weights, mode)
    total = torch.empty_like(array, dtype=dtype, memory_format=torch.contiguous_format)
    sum_pieces(total, values, starts.view(-1), plan.spec.num_slots, tile.piece, ACCUMULATOR=TYPES[dtype])
    return total


def add_gradient(
    total: Tensor,
    scale: float,
    grad: Tensor,
    array: Tensor,
    ids: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    fields: Tensor,
    spec: list[int],
    mode: int,
) -> None:
    """Adds ``scale`` times the gradient of the array to ``total`` [m], atomically."""
    plan = plan_of(fields, spec, array, grad.shape[1])
    tile = tile_of(plan, bags=offsets is not None, small=True)
    _scatter(total, None, plan, tile, scale, grad, array, ids, offsets, weights, mode)


def _scatter(
    target: Tensor,
    starts: Tensor | None,
    plan: Plan,
    tile: Tile,
    scale: float,
    grad: Tensor,
    array: Tensor,
    ids: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    mode: int,
) -> None:
    samples, width = grad.shape
    grad, num_fields = grad.contiguous(), len(plan.rows)
    shape = (samples, num_fields, width, plan.segment, ceil_div(plan.max_dim, tile.piece), scale)
    options: dict[str, Any] = {"ACCUMULATOR": TYPES[target.dtype], **tile.constants, **plan.flags}
    if offsets is None:
        launch(
            backward_kernel,
            _row_tiles(plan, tile, samples),
            array,
            grad,
            ids.contiguous(),
            plan.table,
            plan.constants,
            target,
            starts,
            *shape,
            COMMON_DIM=plan.common_dim,
            **options,
        )
        return
    launch(
        backward_bags_kernel,
        _bag_tiles(plan, tile, samples),
        array,
        grad,
        array.contiguous(),
        *_bags(ids, offsets, weights),
        plan.table,
        plan.constants,
        target,
        starts,
        ids.numel(),
        *shape,
        MODE=int(mode),
        **options,
    )


def lookup_backward_weights(
    grad: Tensor,
    array: Tensor,
    ids: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    fields: Tensor,
    spec: list[int],
) -> Tensor:
    """Gradient of the weights, [N]."""
    assert offsets is not None
    assert weights is not None
    plan = plan_of(fields, spec, array, grad.shape[1])
    tile = tile_of(plan, bags=True)
    out = torch.empty_like(weights, memory_format=torch.contiguous_format)
    launch(
        backward_weights_kernel,
        _bag_tiles(plan, tile, grad.shape[0]),
        array,
        grad.contiguous(),
        array.contiguous(),
        *_bags(ids, offsets, None)[:2],
        plan.table,
        plan.constants,
        out,
        ids.numel(),
        grad.shape[0],
        len(plan.rows),
        grad.shape[1],
        plan.segment,
        ACCUMULATOR=TYPES[accumulator(array.dtype)],
        **tile.constants,
        **plan.flags,
    )
    return out


def _row_tiles(plan: Plan, tile: Tile, samples: int) -> int:
    """Programs for one id per field and sample: see ``rows_of_tile``."""
    if plan.common_dim:
        return ceil_div(samples * len(plan.rows), tile.rows)
    return ceil_div(samples, tile.rows) * len(plan.rows)


def _bag_tiles(plan: Plan, tile: Tile, samples: int) -> int:
    return ceil_div(samples, tile.rows) * len(plan.rows)


def _bags(ids: Tensor, offsets: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    return ids.contiguous(), offsets.contiguous(), None if weights is None else weights.contiguous()
