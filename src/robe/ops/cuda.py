"""The ops on CUDA by the Triton kernels, where Triton is installed.

Triton is imported at the first launch: it is large, and machines without a GPU need none of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

OPS = (
    "lookup",
    "lookup_quantized",
    "lookup_backward_array",
    "lookup_backward_weights",
    "lookup_dot",
    "lookup_dot_backward",
)
STEP_DTYPES = (torch.float32, torch.float64)
DOT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_DOT_GROUPS = 64


def _availability() -> tuple[bool, str]:
    """Whether the kernels can be used, and why."""
    if os.environ.get("ROBE_KERNELS") == "reference":
        return False, "eager PyTorch: ROBE_KERNELS=reference asks for it"
    if find_spec("triton") is None:
        return False, "eager PyTorch: triton is not installed"
    return True, "Triton kernels, compiled at their first launch"


available, reason = _availability()


def fuses_step(array: Tensor) -> bool:
    """Whether ``robe.ops.triton.update`` can step an array."""
    return available and array.device.type == "cuda" and array.dtype in STEP_DTYPES and array.is_contiguous()


def fuses_dot(array: Tensor, groups: int) -> bool:
    """Whether ``robe::lookup_dot`` has a kernel for an array and a number of vectors per sample."""
    return available and array.device.type == "cuda" and array.dtype in DOT_DTYPES and groups <= MAX_DOT_GROUPS


def _kernel(name: str) -> Callable[..., Any]:
    def run(*arguments: Any) -> Any:
        from robe.ops.triton import ops

        return getattr(ops, name)(*arguments)

    return run


if available:
    for _name in OPS:
        torch.library.impl(f"robe::{_name}", "CUDA", _kernel(_name))
