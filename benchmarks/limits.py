"""The machine's limits in the access patterns of a lookup: limits.cpp, built when first used."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

_SOURCE = Path(__file__).with_name("limits.cpp")


def build() -> ctypes.CDLL:
    """The library, compiled into a temporary folder."""
    target = Path(tempfile.mkdtemp()) / "limits.so"
    subprocess.run(
        ["c++", "-O2", "-mavx2", "-fopenmp", "-shared", "-fPIC", str(_SOURCE), "-o", str(target)], check=True
    )
    library = ctypes.CDLL(str(target))
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.gather.argtypes = [pointer, pointer, number, pointer, ctypes.c_int, ctypes.c_int]
    library.race.argtypes = [pointer, pointer, number, pointer, number, ctypes.c_int]
    library.fill.argtypes = [pointer, number, ctypes.c_int]
    return library


class Limits:
    """Gathers of rows of 16 floats from known places, and fills."""

    def __init__(self) -> None:
        self.library = build()

    def gather(self, array: Tensor, positions: Tensor, out: Tensor, stream: bool = False) -> None:
        """``out[r] = array[positions[r] : positions[r] + 16]``; with ``stream`` around the cache."""
        self.library.gather(
            array.data_ptr(),
            positions.data_ptr(),
            positions.numel(),
            out.data_ptr(),
            int(stream),
            torch.get_num_threads(),
        )

    def race(self, grad: Tensor, positions: Tensor, out: Tensor) -> None:
        """``out[positions[r] : positions[r] + 16] += grad[r]`` from zero, by threads that race."""
        self.library.race(
            grad.data_ptr(), positions.data_ptr(), positions.numel(), out.data_ptr(), len(out), torch.get_num_threads()
        )

    def fill(self, out: Tensor) -> None:
        """Writes all of ``out``, around the cache."""
        self.library.fill(out.data_ptr(), out.numel(), torch.get_num_threads())
