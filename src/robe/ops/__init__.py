"""The ops: lookups, one contract and one kernel per device; and attention among few vectors.

Importing this package registers the schemas, the fake kernels, autograd and the reference kernel.
"""

from typing import TypedDict

import torch

from robe.ops import attention as attention
from robe.ops import contract as contract
from robe.ops import cuda as cuda
from robe.ops import native as native
from robe.ops import reference as reference
from robe.ops.calls import lookup as lookup
from robe.ops.calls import lookup_dot as lookup_dot
from robe.ops.prepared import Prepared as Prepared
from robe.ops.recording import Record as Record
from robe.ops.recording import Recorder as Recorder
from robe.ops.straight import lookup_quantized as lookup_quantized

if native.library is not None:
    from robe.ops import cpu as cpu

OPS = (
    "robe::lookup",
    "robe::lookup_quantized",
    "robe::lookup_backward_array",
    "robe::lookup_backward_weights",
    "robe::lookup_dot",
    "robe::lookup_dot_backward",
    "robe::attention",
    "robe::attention_backward",
)


class KernelStatus(TypedDict):
    """Which kernel runs an op on a device, and why."""

    op: str
    device: str
    kernel: str
    reason: str


def status() -> list[KernelStatus]:
    """Which kernel is active for each op on CPU and CUDA: what ``robe doctor`` shows."""
    return [_status(op, device) for op in OPS for device in ("CPU", "CUDA")]


def fuses_dot(array: torch.Tensor, groups: int) -> bool:
    """Whether ``robe::lookup_dot`` has a kernel of its own for an array and a number of vectors per sample."""
    on_cpu = native.library is not None and array.device.type == "cpu" and array.dtype == torch.float32
    return on_cpu or cuda.fuses_dot(array, groups)


def _status(op: str, device: str) -> KernelStatus:
    own = torch._C._dispatch_has_kernel_for_dispatch_key(op, device)
    kernel, reason = ("native", native.reason) if device == "CPU" else ("triton", cuda.reason)
    if "attention" in op and device == "CUDA":
        reason = "eager PyTorch: its own attention"
    return {"op": op, "device": device.lower(), "kernel": kernel if own else "reference", "reason": reason}
