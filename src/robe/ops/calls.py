"""How the library calls the ops: recorded for an optimizer, straight to the CPU kernel, or through the dispatcher."""

import torch
from torch import Tensor

from robe.layout import Mode
from robe.ops import native
from robe.ops.recording import RecordedLookup, RecordedLookupDot, Recorder, records_gradients

if native.library is not None:
    from robe.ops import cpu


def _straight(array: Tensor, ids: Tensor) -> bool:
    """Whether the dispatcher would only come to the CPU kernel, which takes it longer than a small lookup itself.

    Not where gradients are wanted, nor where something looks on: a compiler, a tracer, a mode, a tensor subclass.
    """
    return (
        native.library is not None
        and not (torch.is_grad_enabled() and array.requires_grad)
        and array.device.type == "cpu"
        and type(array) in (Tensor, torch.nn.Parameter)
        and type(ids) is Tensor
        and not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
        and not torch._C._get_tracing_state()
    )


def lookup(
    array: Tensor,
    ids: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    fields: Tensor,
    spec: list[int],
    width: int,
    mode: Mode,
    recorder: Recorder | None = None,
) -> Tensor:
    """Embeddings of all fields: [B, W] in the dtype of ``array``. Arguments as in the module's docstring.

    With a ``recorder``, the backward appends to it instead of making a gradient of the array.
    """
    if records_gradients(recorder, array):
        recorded: Tensor = RecordedLookup.apply(  # type: ignore[no-untyped-call]
            recorder, array, ids, offsets, weights, fields, spec, width, int(mode)
        )
        return recorded
    if weights is None and _straight(array, ids):
        return cpu.lookup(array, ids, offsets, weights, fields, spec, width, mode)
    result: Tensor = torch.ops.robe.lookup(array, ids, offsets, weights, fields, spec, width, int(mode))
    return result


def lookup_dot(
    array: Tensor,
    dense: Tensor | None,
    ids: Tensor,
    fields: Tensor,
    spec: list[int],
    width: int,
    recorder: Recorder | None = None,
) -> Tensor:
    """The lookup and the dot interaction in one: see the module's docstring."""
    if records_gradients(recorder, array):
        recorded: Tensor = RecordedLookupDot.apply(  # type: ignore[no-untyped-call]
            recorder, array, dense, ids, fields, spec, width
        )
        return recorded
    result: Tensor = torch.ops.robe.lookup_dot(array, dense, ids, fields, spec, width)
    return result
