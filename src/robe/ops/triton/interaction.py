"""The ops of lookup and dot interaction in one on tensors of a GPU: arguments as in ``robe.ops.contract``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robe.checks import require_dtype
from robe.ops.contract import dot_width
from robe.ops.cuda import DOT_DTYPES, MAX_DOT_GROUPS
from robe.ops.triton.dot import dot_backward_kernel, dot_kernel
from robe.ops.triton.launch import launch, power_of_2, tile_of
from robe.ops.triton.plan import Plan, plan_of


def lookup_dot(array: Tensor, dense: Tensor | None, ids: Tensor, fields: Tensor, spec: list[int], width: int) -> Tensor:
    """Embeddings and their dot products; float32, bfloat16 or float16."""
    plan, shape = _dot_plan(array, dense, ids, fields, spec, width)
    out = array.new_empty(ids.shape[0], dot_width(dense, fields, width))
    array, ids, dense = array.contiguous(), ids.contiguous(), None if dense is None else dense.contiguous()
    launch(dot_kernel, ids.shape[0], array, array, dense, ids, plan.table, plan.constants, out, **shape)
    return out


def lookup_dot_backward(
    grad: Tensor, array: Tensor, dense: Tensor | None, ids: Tensor, fields: Tensor, spec: list[int], width: int
) -> tuple[Tensor, Tensor]:
    """Gradients of ``dense`` (empty without) and of the embeddings, [B, W]."""
    plan, shape = _dot_plan(array, dense, ids, fields, spec, width)
    rows = array.new_empty(ids.shape[0], width)
    grad, array, ids = grad.contiguous(), array.contiguous(), ids.contiguous()
    grad_dense = array.new_empty(0 if dense is None else dense.shape)
    launch(
        dot_backward_kernel,
        ids.shape[0],
        array,
        grad,
        array,
        None if dense is None else dense.contiguous(),
        ids,
        plan.table,
        plan.constants,
        grad_dense,
        rows,
        **shape,
    )
    return grad_dense, rows


def _dot_plan(
    array: Tensor, dense: Tensor | None, ids: Tensor, fields: Tensor, spec: list[int], width: int
) -> tuple[Plan, dict[str, Any]]:
    """The plan, and the arguments by name that both kernels have in common."""
    require_dtype("array", array, *DOT_DTYPES)
    if dense is not None:
        require_dtype("dense", dense, array.dtype)
    plan = plan_of(fields, spec, array, width)
    groups = len(plan.rows) + (dense is not None)
    if not plan.common_dim:
        raise ValueError("fields: expected fields of one dim, side by side")
    if groups > MAX_DOT_GROUPS:
        raise ValueError(
            f"fields: the fused interaction takes up to {MAX_DOT_GROUPS} vectors per sample, got {groups}; "
            "look up and interact one after the other"
        )
    # The matrix units want 16 rows and columns or more. Float32 goes through the ordinary ones, whose operands lie in
    # registers: fewer columns at a time, and more threads.
    columns = 32 if array.dtype == torch.float32 else 128
    padded, block = max(16, power_of_2(groups)), max(16, min(power_of_2(plan.max_dim), columns))
    tile = tile_of(plan, block=block)
    return plan, {
        "num_fields": len(plan.rows),
        "dim": plan.common_dim,
        "segment": plan.segment,
        "GROUPS": padded,
        "PIECES": tile.pieces,
        "PIECE": tile.piece,
        "PRECISION": "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee",
        "num_warps": 8 if padded > 32 or array.dtype == torch.float32 else 4,
        "enable_fp_fusion": True,
        **plan.flags,
    }
