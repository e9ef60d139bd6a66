"""The ops without a gradient: straight to the CPU kernel where nothing looks on, or through the dispatcher."""

from __future__ import annotations

import torch
from torch import Tensor

from robe.ops import native
from robe.ops.prepared import MakePrepared

if native.library is not None:
    from robe.ops import cpu

_PLAIN = (Tensor, torch.nn.Parameter)
_grad_enabled = torch.is_grad_enabled
_compiling = torch.compiler.is_compiling
_modes = torch._C._len_torch_dispatch_stack
_functorch = torch._C._functorch.peek_interpreter_stack
_tracing = torch._C._get_tracing_state


def straight(array: Tensor, other: Tensor) -> bool:
    """Whether the dispatcher would only come to the CPU kernel, which takes it longer than a small lookup itself.

    Not where gradients are wanted, nor where something looks on: a compiler, a tracer, a mode, a tensor subclass.

    Args:
        array: of the lookup.
        other: another tensor argument, ids or ``dense``.
    """
    return (
        native.library is not None
        and not (_grad_enabled() and (array.requires_grad or other.requires_grad))
        and array.is_cpu
        and type(array) in _PLAIN
        and type(other) in _PLAIN
        and not _compiling()
        and _modes() == 0
        and _functorch() is None
        and not _tracing()
    )


def lookup(
    array: Tensor,
    ids: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    fields: Tensor,
    spec: list[int],
    width: int,
    mode: int,
    prepared: MakePrepared | None = None,
) -> Tensor:
    """``robe::lookup``; ``prepared`` makes small lookups faster, with the numbers of ``fields`` and ``spec``."""
    if weights is None and straight(array, ids):
        if prepared is not None and offsets is None:
            return prepared(array, array.dtype).lookup(array, ids)
        return cpu.lookup(array, ids, offsets, weights, fields, spec, width, mode)
    result: Tensor = torch.ops.robe.lookup(array, ids, offsets, weights, fields, spec, width, mode)
    return result


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
    prepared: MakePrepared | None = None,
) -> Tensor:
    """``robe::lookup_quantized``; ``prepared`` as in ``lookup``."""
    if prepared is not None and offsets is None and not scales.requires_grad and straight(array, ids):
        return prepared(array, dtype).lookup(array, ids, scales)
    result: Tensor = torch.ops.robe.lookup_quantized(
        array, scales, ids, offsets, weights, fields, spec, width, int(mode), dtype
    )
    return result


def lookup_dot(array: Tensor, dense: Tensor | None, ids: Tensor, fields: Tensor, spec: list[int], width: int) -> Tensor:
    """``robe::lookup_dot``."""
    if array.dtype == torch.float32 and straight(array, ids if dense is None else dense):
        return cpu.lookup_dot(array, dense, ids, fields, spec, width)
    result: Tensor = torch.ops.robe.lookup_dot(array, dense, ids, fields, spec, width)
    return result
