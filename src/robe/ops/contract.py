"""The op contract: schemas, fake kernels and autograd. Kernels for devices register elsewhere, to these names.

``robe::lookup`` computes the embeddings of all fields of a batch in one call; two more ops are its derivatives.
Nothing but ids is kept for the backward: slots are computed again.

Arguments common to the ops (B batch, F fields, N ids, m slots, W the sum of the fields' dims):

* ``array``: [m], float32, float64, bfloat16 or float16. Sums are accumulated in float32 (float64 for float64).
* ``ids``: int64 [B, F], one id per field and sample; or int64 [N], the ids of bags.
* ``offsets``: None for ids [B, F]; else int64 [F * B + 1], field by field (see ``robe.Jagged``).
* ``weights``: None, or one weight per id of a bag, [N] in the dtype of ``array``; with mode SUM only.
* ``fields``: int64 [F, 9], a row of ``robe.layout.FieldSpec`` per field, on the device of ``array``.
* ``spec``: the numbers of ``robe.hashing.HashSpec``.
* ``width``: W.
* ``mode``: ``robe.layout.Mode``.

``robe::lookup_dot`` is the lookup of F fields of one dim D followed by DLRM's interaction, so that embeddings need
never leave the cache: [B, D + G (G - 1) / 2] with ``dense`` [B, D], else [B, G (G - 1) / 2]; first the dense vector,
then the dot products (1, 0), (2, 0), (2, 1), ... of the G = F + 1 (or F) vectors. Its derivative gives those of
``dense`` and of the embeddings; the latter is what ``robe::lookup_backward_array`` takes.

``robe::lookup_quantized`` is the lookup of an int8 ``array`` with ``scales``, float32 [ceil(m / 64)]
(``robe.quantization``). Embeddings and ``weights`` have the given ``dtype``: float32, bfloat16 or float16. It is for
inference and has no derivative.
"""

from typing import Any

import torch
from torch import Tensor

from robe.layout import Mode
from robe.ops.bags import batch_size

COMMON = "Tensor array, Tensor ids, Tensor? offsets, Tensor? weights, Tensor fields, int[] spec"

torch.library.define("robe::lookup", f"({COMMON}, int width, int mode) -> Tensor")
torch.library.define("robe::lookup_backward_array", f"(Tensor grad, {COMMON}, int mode) -> Tensor")
torch.library.define("robe::lookup_backward_weights", f"(Tensor grad, {COMMON}) -> Tensor")

DOT = "Tensor array, Tensor? dense, Tensor ids, Tensor fields, int[] spec, int width"

torch.library.define("robe::lookup_dot", f"({DOT}) -> Tensor")
torch.library.define("robe::lookup_dot_backward", f"(Tensor grad, {DOT}) -> (Tensor, Tensor)")


torch.library.define(
    "robe::lookup_quantized",
    "(Tensor array, Tensor scales, Tensor ids, Tensor? offsets, Tensor? weights, Tensor fields, int[] spec, int width, "
    "int mode, ScalarType dtype) -> Tensor",
)


@torch.library.register_fake("robe::lookup")
def _lookup_fake(
    array: Tensor,
    ids: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    fields: Tensor,
    spec: list[int],
    width: int,
    mode: int,
) -> Tensor:
    return array.new_empty(batch_size(ids, offsets, fields), width)


@torch.library.register_fake("robe::lookup_backward_array")
def _lookup_backward_array_fake(
    grad: Tensor,
    array: Tensor,
    ids: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    fields: Tensor,
    spec: list[int],
    mode: int,
) -> Tensor:
    return torch.empty_like(array)


@torch.library.register_fake("robe::lookup_backward_weights")
def _lookup_backward_weights_fake(
    grad: Tensor,
    array: Tensor,
    ids: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    fields: Tensor,
    spec: list[int],
) -> Tensor:
    assert weights is not None
    return torch.empty_like(weights)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    array, ids, offsets, weights, fields, spec, _, mode = inputs
    ctx.save_for_backward(array, ids, offsets, weights, fields)
    ctx.spec, ctx.mode = spec, mode


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    array, ids, offsets, weights, fields = ctx.saved_tensors
    common = (array, ids, offsets, weights, fields, ctx.spec)
    grad_array = grad_weights = None
    if ctx.needs_input_grad[0]:
        grad_array = torch.ops.robe.lookup_backward_array(grad, *common, ctx.mode)
    if ctx.needs_input_grad[3]:
        grad_weights = torch.ops.robe.lookup_backward_weights(grad, *common)
    return grad_array, None, None, grad_weights, None, None, None, None


torch.library.register_autograd("robe::lookup", _backward, setup_context=_setup_context)


def dot_width(dense: Tensor | None, fields: Tensor, width: int) -> int:
    """Outputs per sample of ``robe::lookup_dot``."""
    groups = fields.shape[0] + (dense is not None)
    return groups * (groups - 1) // 2 + (0 if dense is None else width // fields.shape[0])


@torch.library.register_fake("robe::lookup_dot")
def _lookup_dot_fake(
    array: Tensor, dense: Tensor | None, ids: Tensor, fields: Tensor, spec: list[int], width: int
) -> Tensor:
    return array.new_empty(ids.shape[0], dot_width(dense, fields, width))


@torch.library.register_fake("robe::lookup_dot_backward")
def _lookup_dot_backward_fake(
    grad: Tensor, array: Tensor, dense: Tensor | None, ids: Tensor, fields: Tensor, spec: list[int], width: int
) -> tuple[Tensor, Tensor]:
    rows = array.new_empty(ids.shape[0], width)
    return array.new_empty(0) if dense is None else array.new_empty(dense.shape), rows


def _setup_dot_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    array, dense, ids, fields, spec, width = inputs
    ctx.save_for_backward(array, dense, ids, fields)
    ctx.spec, ctx.width = spec, width


def _backward_dot(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    array, dense, ids, fields = ctx.saved_tensors
    grad_dense, rows = torch.ops.robe.lookup_dot_backward(grad, array, dense, ids, fields, ctx.spec, ctx.width)
    grad_array = None
    if ctx.needs_input_grad[0]:
        grad_array = torch.ops.robe.lookup_backward_array(rows, array, ids, None, None, fields, ctx.spec, int(Mode.SUM))
    return grad_array, None if dense is None else grad_dense, None, None, None, None


torch.library.register_autograd("robe::lookup_dot", _backward_dot, setup_context=_setup_dot_context)


@torch.library.register_fake("robe::lookup_quantized")
def _lookup_quantized_fake(
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
    return array.new_empty(batch_size(ids, offsets, fields), width, dtype=dtype)


def _no_backward(ctx: Any, grad: Tensor) -> None:
    raise RuntimeError(
        "robe: a lookup of int8 slots has no gradient, neither of scales nor of weights of bags; train with a "
        "floating-point array, and robe.quantize() it for inference"
    )


torch.library.register_autograd("robe::lookup_quantized", _no_backward)
