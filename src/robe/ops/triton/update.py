"""Steps of the optimizers from recorded gradients, on the device alone: nothing here waits for the GPU.

SGD without momentum and weight decay is linear in the gradient, so it is added straight to the array, in as many
launches as there are records and without a gradient of the array's size. Every other rule needs a slot's whole
gradient first: the records are summed in a zeroed buffer, and one launch applies the rule to all slots. So do bags of
mode MAX, whose gradient reads the array: it must not change meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log2
from typing import Any

import torch
from torch import Tensor

from robe.layout import Mode
from robe.ops.recording import Record
from robe.ops.triton.launch import ceil_div, launch
from robe.ops.triton.ops import add_gradient, gradient
from robe.ops.triton.step import adagrad_kernel, adam_kernel, sgd_kernel

BLOCK = 1024  # slots of a program: 8 per thread, two vectors of 16 bytes in float32


def sgd(
    array: Tensor,
    records: Sequence[Record],
    buffer: Tensor | None,
    *,
    lr: float | Tensor,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
    first: bool,
) -> None:
    """SGD; ``buffer`` [m] is the momentum's, and ``first`` says that it is empty."""
    rate, rate_tensor = _rate(array, lr)
    linear = buffer is None and weight_decay == 0 and rate_tensor is None
    linear &= all(record.mode != Mode.MAX for record in records)
    if linear and not torch.are_deterministic_algorithms_enabled():
        for record in records:
            add_gradient(array, rate if maximize else -rate, *_arguments(array, record))
        return
    numbers = (rate, rate_tensor, weight_decay, momentum, 1 - dampening)
    _run(sgd_kernel, array, records, (buffer,), numbers, maximize, FIRST=first, NESTEROV=nesterov)


def adagrad(
    array: Tensor,
    records: Sequence[Record],
    squares: Tensor,
    *,
    lr: float | Tensor,
    weight_decay: float,
    eps: float,
    maximize: bool,
) -> None:
    """Adagrad; ``squares`` [m] is the sum of squared gradients, ``lr`` after its decay."""
    _run(adagrad_kernel, array, records, (squares,), (*_rate(array, lr), weight_decay, eps), maximize)


def adam(
    array: Tensor,
    records: Sequence[Record],
    first: Tensor,
    second: Tensor,
    step: Tensor,
    *,
    lr: float | Tensor,
    betas: tuple[float, float],
    weight_decay: float,
    eps: float,
    maximize: bool,
) -> None:
    """Adam; ``first`` and ``second`` [m] are the moments, ``step`` counts this step too, on the array's device."""
    # log2 of 0 would be an error; 2**-2000 is 0 as well.
    logarithms = [log2(beta) if beta > 0 else -2000.0 for beta in betas]
    numbers = (*_rate(array, lr), weight_decay, *betas, *logarithms, eps)
    _run(adam_kernel, array, records, (first, second, step), numbers, maximize)


def total_gradient(array: Tensor, records: Sequence[Record]) -> Tensor:
    """The records' gradients together, [m]."""
    total = gradient(*_arguments(array, records[0]))
    for record in records[1:]:
        if torch.are_deterministic_algorithms_enabled():
            total += gradient(*_arguments(array, record))
        else:
            add_gradient(total, 1.0, *_arguments(array, record))
    return total


def _arguments(array: Tensor, r: Record) -> tuple[Any, ...]:
    return r.grad, array, r.ids, r.offsets, r.weights, r.fields, r.spec, r.mode


def _rate(array: Tensor, lr: float | Tensor) -> tuple[float, Tensor | None]:
    """The learning rate as kernels take it: a number, or a tensor of the device, which a captured graph reads anew."""
    if isinstance(lr, Tensor) and lr.device == array.device:
        return 0.0, lr
    return float(lr), None


def _run(
    kernel: Any,
    array: Tensor,
    records: Sequence[Record],
    state: tuple[Tensor | None, ...],
    numbers: tuple[Any, ...],
    maximize: bool,
    **options: Any,
) -> None:
    total, slots = total_gradient(array, records), array.shape[0]
    programs = ceil_div(slots, BLOCK)
    launch(kernel, programs, array, array, total, *state, slots, *numbers, MAXIMIZE=maximize, BLOCK=BLOCK, **options)
