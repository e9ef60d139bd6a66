"""Corrections of Triton 3.6's interpreter, which runs the kernels where there is no GPU.

Compiled kernels are not touched: these are faults of the interpreter alone.
"""

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter


def _float32(bits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).float().numpy()


def _bfloat16(values: np.ndarray) -> np.ndarray:
    return torch.from_numpy(np.ascontiguousarray(values)).bfloat16().view(torch.int16).numpy().view(np.uint16)


def correct() -> None:
    """Applies the corrections to this process."""
    cast, dot, patch = (
        interpreter.InterpreterBuilder.cast_impl,
        interpreter.InterpreterBuilder.create_dot,
        interpreter._patch_lang_tensor,
    )
    handle = interpreter.TensorHandle

    def cast_impl(self, source, to):
        """Bfloat16 is cut off there; GPUs round to nearest even."""
        types = source.dtype.scalar, to.scalar
        if types == (tl.bfloat16, tl.float32):
            return handle(_float32(source.data), tl.float32)
        if types == (tl.float32, tl.bfloat16):
            return handle(_bfloat16(source.data), tl.bfloat16)
        return cast(self, source, to)

    def create_dot(self, a, b, d, *options):
        """The bits of bfloat16 are multiplied as integers there."""
        a, b = (handle(_float32(x.data), tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b))
        return dot(self, a, b, d, *options)

    def patch_lang_tensor(tensor, scope):
        """A bound of a loop is an array of one element there, which numpy 2.4 does not take for an integer."""
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter.InterpreterBuilder.cast_impl = cast_impl
    interpreter.InterpreterBuilder.create_dot = create_dot
    interpreter._patch_lang_tensor = patch_lang_tensor
