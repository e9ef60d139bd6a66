"""The optimizers' update of the array from a dense gradient: torch.optim's formulas, one pass over all slots.

Numbers come as float64 and are rounded once to the array's dtype, like torch's scalars. The learning rate may be a
tensor, and Adam's step is one, so that a captured CUDA graph goes on counting.
"""

import triton
import triton.language as tl

from robe.ops.triton.hash import kernel


@triton.jit
def _rate(lr, lr_tensor):
    """The learning rate, float64."""
    rate = tl.full([], lr, tl.float64)
    if lr_tensor is not None:
        rate = tl.load(lr_tensor).to(tl.float64)
    return rate


@triton.jit
def _signed_grad(grad, at, mask, value, weight_decay, MAXIMIZE: tl.constexpr):
    g = tl.load(grad + at, mask, other=0)
    if MAXIMIZE:
        g = -g
    return g + tl.full([], weight_decay, g.dtype) * value


@kernel
def sgd_kernel(
    array,
    grad,
    buffer,
    num_slots: tl.int64,
    lr: tl.float64,
    lr_tensor,
    weight_decay: tl.float64,
    momentum: tl.float64,
    fresh: tl.float64,
    FIRST: tl.constexpr,
    NESTEROV: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``buffer`` is None without momentum; ``fresh`` is 1 - dampening."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < num_slots
    value = tl.load(array + at, mask)
    g = _signed_grad(grad, at, mask, value, weight_decay, MAXIMIZE)
    if buffer is not None:
        moved = g
        if not FIRST:
            moved = tl.full([], momentum, g.dtype) * tl.load(buffer + at, mask) + tl.full([], fresh, g.dtype) * g
        tl.store(buffer + at, moved, mask)
        g = g + tl.full([], momentum, g.dtype) * moved if NESTEROV else moved
    tl.store(array + at, value - _rate(lr, lr_tensor).to(g.dtype) * g, mask)


@kernel
def adagrad_kernel(
    array,
    grad,
    squares,
    num_slots: tl.int64,
    lr: tl.float64,
    lr_tensor,
    weight_decay: tl.float64,
    eps: tl.float64,
    MAXIMIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``squares`` is the sum of squared gradients."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < num_slots
    value = tl.load(array + at, mask)
    g = _signed_grad(grad, at, mask, value, weight_decay, MAXIMIZE)
    total = tl.load(squares + at, mask, other=1) + g * g
    tl.store(squares + at, total, mask)
    tl.store(
        array + at, value - _rate(lr, lr_tensor).to(g.dtype) * g / (tl.sqrt(total) + tl.full([], eps, g.dtype)), mask
    )


@kernel
def adam_kernel(
    array,
    grad,
    first,
    second,
    step,
    num_slots: tl.int64,
    lr: tl.float64,
    lr_tensor,
    weight_decay: tl.float64,
    beta1: tl.float64,
    beta2: tl.float64,
    log_beta1: tl.float64,
    log_beta2: tl.float64,
    eps: tl.float64,
    MAXIMIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``first`` and ``second`` are the moments; ``step`` counts this step too; logarithms have base 2."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < num_slots
    value = tl.load(array + at, mask)
    g = _signed_grad(grad, at, mask, value, weight_decay, MAXIMIZE)
    dtype = g.dtype
    mean = tl.full([], beta1, dtype) * tl.load(first + at, mask) + tl.full([], 1 - beta1, dtype) * g
    square = tl.full([], beta2, dtype) * tl.load(second + at, mask, other=1) + tl.full([], 1 - beta2, dtype) * g * g
    tl.store(first + at, mean, mask)
    tl.store(second + at, square, mask)
    count = tl.load(step).to(tl.float64)
    rate = _rate(lr, lr_tensor) / (1 - tl.exp2(count * log_beta1))
    root = 1 / tl.sqrt(1 - tl.exp2(count * log_beta2))
    tl.store(
        array + at, value - rate.to(dtype) * mean / (tl.sqrt(square) * root.to(dtype) + tl.full([], eps, dtype)), mask
    )
