"""Int8 arrays for inference, and how a trained module gets one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from robe.nn.array import RobeArray
from robe.quantization import GROUP, OUTPUT_DTYPES, quantize_array

M = TypeVar("M", bound=nn.Module)


class QuantizedArray(nn.Module):
    """The array as int8 slots and a float32 scale for every 64 of them: takes the place of a ``RobeArray``.

    Both are buffers: there is nothing to train. ``.to(dtype)`` changes the dtype of the embeddings and leaves the
    stored numbers alone.

    Args:
        array: what to quantise.

    Raises:
        TypeError: the dtype of its embeddings is not float32, bfloat16 or float16.
        ValueError: a slot is NaN or infinite.
    """

    recorder = None
    array: Tensor  # int8 [m]
    scales: Tensor  # float32 [ceil(m / 64)]

    def __init__(self, array: RobeArray) -> None:
        super().__init__()
        self.output_dtype = _output_dtype(array.output_dtype or array.array.dtype)
        slots, scales = quantize_array(array.array)
        self.register_buffer("array", slots)
        self.register_buffer("scales", scales)

    def reset_parameters(self) -> None:
        """Not possible.

        Raises:
            TypeError: always.
        """
        raise TypeError("reset_parameters: an int8 array is for inference; reset the module that it was made from")

    def forward(self) -> Tensor:
        """The array in the dtype of embeddings, [m]."""
        slots = self.array.shape[0]
        return (self.array * self.scales.repeat_interleave(GROUP)[:slots]).to(self.output_dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantizedArray:
        scales = self.scales
        self.output_dtype = _output_dtype(fn(scales.new_empty(0, dtype=self.output_dtype)).dtype)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.scales.dtype != scales.dtype:
            self.scales = scales.to(self.scales.device)
        return self

    def extra_repr(self) -> str:
        """Size and dtypes."""
        return f"{self.array.numel()}, dtype=torch.int8, output_dtype={self.output_dtype}"


def quantize(module: M) -> M:
    """A copy of a module whose ROBE arrays are int8, for inference: a quarter of the memory of float32.

    Every array within becomes a ``QuantizedArray``; embeddings that share one share it still. They give embeddings of
    the dtype that they gave before, and ``.to(dtype)`` changes it. Slots are off by at most half a scale: 1/254 of
    the largest of the 64 slots that share it. The copy's state dict does not load into the original, nor the other
    way round: to load one, build the module, quantise it, then load.

    Args:
        module: a ROBE embedding, or a model that holds some. It is left as it is.

    Returns:
        The copy. Parameters that are not ROBE arrays are copied as they are, and may be trained.

    Raises:
        TypeError: an array is float64 and has no ``output_dtype``: say ``.float()`` first.
        ValueError: there is no array within, or one holds NaN or infinity.
    """
    arrays = {id(m): m for m in module.modules() if isinstance(m, RobeArray)}
    if not arrays:
        raise ValueError("module: expected a ROBE embedding or a model with one, found no robe.RobeArray within")
    return copy.deepcopy(module, {key: QuantizedArray(array) for key, array in arrays.items()})


def _output_dtype(dtype: torch.dtype) -> torch.dtype:
    if dtype not in OUTPUT_DTYPES:
        raise TypeError(
            f"dtype: an int8 array gives embeddings of {' or '.join(map(str, OUTPUT_DTYPES))}, not {dtype}; "
            "convert with .float(), .bfloat16() or .half() first"
        )
    return dtype
