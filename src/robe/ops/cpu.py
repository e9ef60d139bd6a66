"""The ops on CPU by the compiled kernels, where these are there."""

from __future__ import annotations

import torch
from torch import Tensor

from robe.layout import Mode
from robe.ops.native import Call


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
    out = array.new_empty(call.batch.batch_size, width)
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
    out = torch.empty_like(array)
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


for _name, _kernel in (
    ("robe::lookup", lookup),
    ("robe::lookup_backward_array", lookup_backward_array),
    ("robe::lookup_backward_weights", lookup_backward_weights),
):
    torch.library.impl(_name, "CPU", _kernel)
