"""The shared array as a module of its own, so that sharing survives every way of moving modules."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn

from robe.ops import Recorder, native


class RobeArray(nn.Module):
    """The one-dimensional parameter M that embeddings share.

    Give one ``RobeArray`` to several embeddings and they learn in the same memory. It is a module rather than a
    bare parameter because ``module.to("meta")`` and ``module.to_empty()`` replace parameters: two owners of a bare
    parameter would part there, two owners of one module do not.

    Args:
        num_slots: m.
        init_std: standard deviation of the normal initial values.
        device: of the parameter.
        dtype: of the parameter.
        output_dtype: of the embeddings, such as that of the model's other layers; ``dtype`` by default. Embeddings, and
            the gradients that come back, are rounded to ``dtype`` on the way.
    """

    scales: Tensor | None = None  # of int8 slots: see QuantizedArray

    def __init__(
        self,
        num_slots: int,
        init_std: float = 0.01,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        output_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.init_std = init_std
        self.output_dtype = output_dtype
        array = torch.empty(num_slots, device=device, dtype=dtype)
        native.huge_pages(array)
        self.array = nn.Parameter(array)
        self.reset_parameters()

    # Weak: without its optimizer the array has ordinary gradients again.
    _recorder: weakref.ref[Recorder] | None = None

    @property
    def recorder(self) -> Recorder | None:
        """Where backward passes record gradients for an optimizer of ``robe.optim``; None without one."""
        return None if self._recorder is None else self._recorder()

    def record_into(self, recorder: Recorder) -> None:
        """Lookups from now on record into ``recorder``, as long as it lives, and ``array.grad`` stays None."""
        self._recorder = weakref.ref(recorder)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles of an array have no part in the optimizer of the original."""
        return {name: value for name, value in self.__dict__.items() if name != "_recorder"}

    def reset_parameters(self) -> None:
        """Draws the array anew from N(0, init_std**2), with torch's global generator."""
        nn.init.normal_(self.array, std=self.init_std)

    def forward(self) -> Tensor:
        """The parameter, [m]."""
        return self.array

    def extra_repr(self) -> str:
        """Size and initial scale."""
        return f"{self.array.numel()}, init_std={self.init_std}"
