"""Lookups whose backward records what a gradient is made of, instead of making one of the size of the array."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from robe.layout import Mode
from robe.ops import straight
from robe.ops.prepared import MakePrepared


@dataclass(frozen=True, eq=False)
class Record:
    """One backward: the arguments of ``robe::lookup_backward_array`` but for the array."""

    grad: Tensor  # [B, W]
    ids: Tensor
    offsets: Tensor | None
    weights: Tensor | None
    fields: Tensor
    spec: list[int]
    mode: int
    versions: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "versions", self._versions())

    def _versions(self) -> tuple[int, ...]:
        return tuple(t._version for t in (self.grad, self.ids, self.offsets, self.weights) if t is not None)

    def check(self) -> None:
        """Raises RuntimeError if a tensor was written to since."""
        if self.versions != self._versions():
            raise RuntimeError(
                "robe.optim: ids, offsets, weights or gradients of a lookup were modified in place between backward() "
                "and step(); give every batch its own tensors, or step before reusing them"
            )

    def dense(self, array: Tensor) -> Tensor:
        """The gradient, [m]."""
        grad: Tensor = torch.ops.robe.lookup_backward_array(
            self.grad, array, self.ids, self.offsets, self.weights, self.fields, self.spec, self.mode
        )
        return grad


class Recorder:
    """What backward passes have recorded for one array since its optimizer's last step."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def take(self) -> list[Record]:
        """The records, checked; the recorder is empty then."""
        records, self.records = self.records, []
        for record in records:
            record.check()
        return records


class RecordedLookup(torch.autograd.Function):
    """``robe::lookup`` whose backward appends to a recorder and gives the array no gradient."""

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        recorder: Recorder,
        array: Tensor,
        ids: Tensor,
        offsets: Tensor | None,
        weights: Tensor | None,
        fields: Tensor,
        spec: list[int],
        width: int,
        mode: int,
        prepared: MakePrepared | None,
    ) -> Tensor:
        ctx.save_for_backward(array, ids, offsets, weights, fields)
        ctx.recorder, ctx.spec, ctx.mode = recorder, spec, mode
        return straight.lookup(array, ids, offsets, weights, fields, spec, width, mode, prepared)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        array, ids, offsets, weights, fields = ctx.saved_tensors
        ctx.recorder.records.append(Record(grad.contiguous(), ids, offsets, weights, fields, ctx.spec, ctx.mode))
        grad_weights = None
        if ctx.needs_input_grad[4]:
            grad_weights = torch.ops.robe.lookup_backward_weights(grad, array, ids, offsets, weights, fields, ctx.spec)
        return None, None, None, None, grad_weights, None, None, None, None, None


class RecordedLookupDot(torch.autograd.Function):
    """``robe::lookup_dot`` whose backward appends to a recorder and gives the array no gradient."""

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        recorder: Recorder,
        array: Tensor,
        dense: Tensor | None,
        ids: Tensor,
        fields: Tensor,
        spec: list[int],
        width: int,
    ) -> Tensor:
        ctx.save_for_backward(array, dense, ids, fields)
        ctx.recorder, ctx.spec, ctx.width = recorder, spec, width
        return straight.lookup_dot(array, dense, ids, fields, spec, width)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        array, dense, ids, fields = ctx.saved_tensors
        grad_dense, rows = torch.ops.robe.lookup_dot_backward(grad, array, dense, ids, fields, ctx.spec, ctx.width)
        ctx.recorder.records.append(Record(rows, ids, None, None, fields, ctx.spec, Mode.SUM))
        return None, None, None if dense is None else grad_dense, None, None, None, None


def records_gradients(recorder: Recorder | None, array: Tensor) -> bool:
    """Whether this call is recorded: not where a compiler traces it, nor where no gradient is wanted."""
    return (
        recorder is not None and array.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling()
    )
