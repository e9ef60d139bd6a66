"""Int8 slots: the array for inference, in a quarter of float32's memory. Formulas (15) and (16) of docs/robe.md."""

from __future__ import annotations

import torch
from torch import Tensor

from robe.checks import require_dtype, require_same_device

GROUP_SHIFT = 6
GROUP = 1 << GROUP_SHIFT  # consecutive slots that share a scale; known to csrc/rows.h and to files
LIMIT = 127  # symmetric: -128 is not used
OUTPUT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def num_scales(num_slots: int) -> int:
    """Scales of an array of m slots; the last group may be short."""
    return -(-num_slots // GROUP)


def quantize_array(array: Tensor) -> tuple[Tensor, Tensor]:
    """The int8 form of an array.

    Args:
        array: [m], of a floating-point dtype.

    Returns:
        int8 [m] and float32 scales [ceil(m / 64)]. Slot times scale is off by at most half a scale.

    Raises:
        ValueError: a slot is NaN or infinite.
    """
    slots = array.shape[0]
    groups = torch.nn.functional.pad(array.detach().float(), (0, -slots % GROUP)).view(-1, GROUP)
    scales = groups.abs().amax(1) / LIMIT
    if not scales.is_meta and not scales.isfinite().all():
        raise ValueError("array: expected finite slots, got NaN or infinity: a group with one has no scale")
    divisors = torch.where(scales > 0, scales, 1).unsqueeze(1)
    quantized = (groups / divisors).round().clamp(-LIMIT, LIMIT).to(torch.int8)
    return quantized.view(-1)[:slots].clone(), scales


def check_quantized(array: Tensor, scales: Tensor, dtype: torch.dtype) -> None:
    """Raises TypeError or ValueError unless these are an int8 array, its scales, and a dtype of its output."""
    require_dtype("array", array, torch.int8)
    require_dtype("scales", scales, torch.float32)
    require_same_device("scales", scales, "array", array)
    wanted = num_scales(array.shape[0])
    if scales.dim() != 1 or scales.shape[0] != wanted:
        raise ValueError(f"scales: expected shape [{wanted}], one for every {GROUP} slots, got {tuple(scales.shape)}")
    if dtype not in OUTPUT_DTYPES:
        raise TypeError(f"dtype: expected {' or '.join(map(str, OUTPUT_DTYPES))} of an int8 array, got {dtype}")
