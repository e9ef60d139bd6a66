"""Self-attention among the few vectors of a sample: the op ``robe::attention``, its derivative and its CPU kernel.

``parts``, [B, F, 3 E] or with ``residual`` [B, F, 4 E], holds queries, keys, values and residuals side by side, each of
``num_heads`` heads; the result is ``relu(softmax(Q K^T) V + R)``, [B, F, E]. Torch's attention is made for long
sequences: among 26 vectors in heads of 8 most of its time goes into moving small matrices.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from robe.ops import buffers, native

torch.library.define("robe::attention", "(Tensor parts, int num_heads, bool residual) -> Tensor")
torch.library.define(
    "robe::attention_backward", "(Tensor grad, Tensor parts, Tensor out, int num_heads, bool residual) -> Tensor"
)


def attention(parts: Tensor, num_heads: int, residual: bool) -> Tensor:
    """``relu(softmax(Q K^T) V + R)`` of [B, F, 3 E or 4 E], [B, F, E]: by one kernel where there is one for it."""
    if native.library is not None and parts.device.type == "cpu" and parts.dtype == torch.float32:
        out: Tensor = torch.ops.robe.attention(parts, num_heads, residual)
        return out
    return reference(parts, num_heads, residual)


def reference(parts: Tensor, num_heads: int, residual: bool) -> Tensor:
    """The same in plain PyTorch, for every device and dtype; autograd goes through it."""
    outputs = _outputs(parts, residual)
    query, key, value, *rest = torch.split(parts, outputs, dim=2)
    heads = (*parts.shape[:2], num_heads, outputs // num_heads)
    query, key, value = (part.reshape(heads).transpose(1, 2) for part in (query, key, value))  # [B, heads, F, d]
    attended = F.scaled_dot_product_attention(query, key, value, scale=1.0).transpose(1, 2).flatten(2)
    return torch.relu(attended + rest[0] if residual else attended)


def reference_backward(grad: Tensor, parts: Tensor, out: Tensor, num_heads: int, residual: bool) -> Tensor:
    """The gradient of ``parts``."""
    with torch.enable_grad():
        parts = parts.detach().requires_grad_()
        (result,) = torch.autograd.grad(reference(parts, num_heads, residual), parts, grad)
    return result


def _outputs(parts: Tensor, residual: bool) -> int:
    return int(parts.shape[2]) // (4 if residual else 3)


def _native(parts: Tensor, num_heads: int, residual: bool) -> Tensor:
    if parts.dtype != torch.float32:
        return reference(parts, num_heads, residual)
    parts = parts.contiguous()
    batch, count, outputs = parts.shape[0], parts.shape[1], _outputs(parts, residual)
    out = buffers.empty((batch, count, outputs), parts.dtype)
    assert native.library is not None
    status = native.library.robe_attention(
        parts.data_ptr(), batch, count, num_heads, outputs // num_heads, residual, out.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip
    _check(status)
    return out


def _native_backward(grad: Tensor, parts: Tensor, out: Tensor, num_heads: int, residual: bool) -> Tensor:
    if parts.dtype != torch.float32:
        return reference_backward(grad, parts, out, num_heads, residual)
    grad, parts, out = grad.contiguous(), parts.contiguous(), out.contiguous()
    batch, count, outputs = out.shape
    result = buffers.empty(tuple(parts.shape), parts.dtype)
    assert native.library is not None
    status = native.library.robe_attention_backward(
        grad.data_ptr(), parts.data_ptr(), out.data_ptr(), batch, count, num_heads, outputs // num_heads, residual,
        result.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    _check(status)
    return result


def _check(status: int) -> None:
    native.check_memory(status)
    if status != native.OK:
        raise RuntimeError(f"robe::attention: the kernel refused its arguments with status {status}")


torch.library.impl("robe::attention", "CompositeExplicitAutograd", reference)
torch.library.impl("robe::attention_backward", "CompositeExplicitAutograd", reference_backward)
if native.library is not None:
    torch.library.impl("robe::attention", "CPU", _native)
    torch.library.impl("robe::attention_backward", "CPU", _native_backward)


@torch.library.register_fake("robe::attention")
def _attention_fake(parts: Tensor, num_heads: int, residual: bool) -> Tensor:
    return parts.new_empty(parts.shape[0], parts.shape[1], parts.shape[2] // (4 if residual else 3))


@torch.library.register_fake("robe::attention_backward")
def _attention_backward_fake(grad: Tensor, parts: Tensor, out: Tensor, num_heads: int, residual: bool) -> Tensor:
    return torch.empty_like(parts, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    parts, ctx.num_heads, ctx.residual = inputs
    ctx.save_for_backward(parts, output)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    parts, out = ctx.saved_tensors
    return torch.ops.robe.attention_backward(grad, parts, out, ctx.num_heads, ctx.residual), None, None


torch.library.register_autograd("robe::attention", _backward, setup_context=_setup_context)
