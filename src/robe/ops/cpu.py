"""The ops on CPU by the compiled kernels, where these are there."""

from __future__ import annotations

import torch
from torch import Tensor

from robe.checks import require_dtype
from robe.layout import Mode
from robe.ops import buffers
from robe.ops.contract import dot_width
from robe.ops.native import Call
from robe.quantization import check_quantized


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
    array = array.contiguous()
    call = Call(array, ids, offsets, weights, fields, spec, width, mode)
    out = buffers.empty((call.batch.batch_size, width), array.dtype)
    call.run("robe_lookup", out.data_ptr())
    return out


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
    if weights is not None:
        require_dtype("weights", weights, dtype)
    array = array.contiguous()
    call = Call(array, ids, offsets, weights, fields, spec, width, mode, scales=scales, out_dtype=dtype)
    out = buffers.empty((call.batch.batch_size, width), dtype)
    call.run("robe_lookup", out.data_ptr())
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
    """Gradient of the array, [m]."""
    array = array.contiguous()
    call = Call(array, ids, offsets, weights, fields, spec, grad.shape[1], mode, grad)
    out = buffers.empty(tuple(array.shape), array.dtype)
    call.run("robe_lookup_backward_array", out.data_ptr())
    return out


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
    assert weights is not None
    array = array.contiguous()
    call = Call(array, ids, offsets, weights, fields, spec, grad.shape[1], Mode.SUM, grad)
    out = torch.empty_like(weights, memory_format=torch.contiguous_format)
    call.run("robe_lookup_backward_weights", out.data_ptr())
    return out


def lookup_dot(array: Tensor, dense: Tensor | None, ids: Tensor, fields: Tensor, spec: list[int], width: int) -> Tensor:
    """Embeddings and their dot products; float32."""
    _require_float32(array, dense)
    array, dense = array.contiguous(), None if dense is None else dense.contiguous()
    call = Call(array, ids, None, None, fields, spec, width, Mode.SUM)
    out = buffers.empty((ids.shape[0], dot_width(dense, fields, width)), array.dtype)
    call.run("robe_lookup_dot", None if dense is None else dense.data_ptr(), out.data_ptr())
    return out


def lookup_dot_backward(
    grad: Tensor, array: Tensor, dense: Tensor | None, ids: Tensor, fields: Tensor, spec: list[int], width: int
) -> tuple[Tensor, Tensor]:
    """Gradients of ``dense`` (empty without) and of the embeddings, [B, W]; float32."""
    _require_float32(array, dense)
    array, dense = array.contiguous(), None if dense is None else dense.contiguous()
    call = Call(array, ids, None, None, fields, spec, width, Mode.SUM, grad)
    grad_dense = array.new_empty(0) if dense is None else torch.empty_like(dense)
    rows = buffers.empty((ids.shape[0], width), array.dtype)
    call.run(
        "robe_lookup_dot_backward",
        None if dense is None else dense.data_ptr(),
        grad_dense.data_ptr(),
        rows.data_ptr(),
    )
    return grad_dense, rows


def _require_float32(array: Tensor, dense: Tensor | None) -> None:
    require_dtype("array", array, torch.float32)
    if dense is not None:
        require_dtype("dense", dense, torch.float32)


for _name, _kernel in (
    ("robe::lookup", lookup),
    ("robe::lookup_quantized", lookup_quantized),
    ("robe::lookup_backward_array", lookup_backward_array),
    ("robe::lookup_backward_weights", lookup_backward_weights),
    ("robe::lookup_dot", lookup_dot),
    ("robe::lookup_dot_backward", lookup_dot_backward),
):
    torch.library.impl(_name, "CPU", _kernel)
