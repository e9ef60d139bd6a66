"""How kernels are launched: shapes of tiles, the device, the stream.

Shapes follow from dims and dtypes by the rules below and never from timing at run time: an autotuner would make the
host wait at the first call of every shape, and could not work while a CUDA graph is captured.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robe.ops.triton.plan import Plan

WARPS = 4
MAX_BLOCK = 128  # elements of a row that are handled at a time; longer rows take turns
# Elements of a tile. 32 per thread are enough loads in flight to hide the latency of memory, and fit the registers.
# Where each element has a hash of its own or an atomic addition, these need registers too. A tile of bags waits for the
# longest.
TILE, SMALL_TILE, BAGS_TILE = 4096, 2048, 1024
MAX_ROWS = 512
STREAM_BYTES = 2**24  # larger outputs leave the L2 cache to the array: they would drive it out before they are read


class Tile(NamedTuple):
    """Shape of a tile: see ``robe.ops.triton.rows``."""

    rows: int
    pieces: int
    piece: int

    @property
    def constants(self) -> dict[str, int]:
        """The kernels' compile-time names of it."""
        return {"ROWS": self.rows, "PIECES": self.pieces, "PIECE": self.piece}


def tile_of(plan: Plan, bags: bool = False, small: bool = False, block: int = 0) -> Tile:
    """The tile of a plan; ``block`` elements of a row at a time."""
    block = block or min(power_of_2(plan.max_dim), MAX_BLOCK)
    one_chunk = plan.segment >= plan.max_dim
    piece = block if one_chunk else min(block, plan.segment & -plan.segment)
    small = small or piece < 4 or plan.flags["SIGNED"]
    elements = BAGS_TILE if bags else SMALL_TILE if small else TILE
    return Tile(max(1, min(MAX_ROWS, elements // block)), block // piece, piece)


def launch(kernel: Any, programs: int, tensor: Tensor, *arguments: Any, **options: Any) -> None:
    """Runs ``programs`` programs of a kernel on the device of ``tensor``, on its current stream.

    ``debug`` keeps the asserts on ids; Triton's own checks of integer overflow, which it also turns on, would meet the
    wrap-around that hashing means. Products and sums are rounded one by one, as the reference does.
    """
    if programs == 0:
        return
    with on_device(tensor):
        kernel[(programs,)](
            *arguments,
            **{"num_warps": WARPS, "debug": True, "sanitize_overflow": False, "enable_fp_fusion": False, **options},
        )


def on_device(tensor: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device, which need not be the tensor's."""
    return torch.cuda.device(tensor.device) if tensor.device.type == "cuda" else nullcontext()


def streams(out: Tensor) -> bool:
    """Whether an output is written past the cache."""
    return out.nbytes > STREAM_BYTES


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which sums are made."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def ceil_div(x: int, y: int) -> int:
    """``x / y``, rounded up."""
    return -(-x // y)


def power_of_2(x: int) -> int:
    """The smallest power of two that is at least ``x``, which is positive."""
    return 1 << (x - 1).bit_length()
