"""Memory of large results, used again: a fresh buffer costs more in page faults than a lookup that fills it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robe.ops import native

SMALLEST = 1 << 20  # bytes; malloc serves smaller ones well
LIMIT = 256 << 20  # bytes kept for later results
_HUGE_PAGE = 2 << 20

Block = np.ndarray[Any, np.dtype[np.uint8]]


class _Blocks:
    """Blocks that nothing uses. Every method is atomic or copes with others at work, threads and destructors alike."""

    def __init__(self) -> None:
        self.free: list[Block] = []

    def take(self, nbytes: int) -> Block:
        """A block of at least ``nbytes`` and at most twice that; the one used last, which may still be in the cache."""
        others: list[Block] = []
        try:
            while True:
                block = self.free.pop()
                if nbytes <= block.nbytes <= 2 * nbytes:
                    return block
                others.append(block)
        except IndexError:
            return _allocate(nbytes)
        finally:
            self.free += reversed(others)

    def give(self, block: Block) -> None:
        """Keeps a block for later, and drops the oldest beyond the limit."""
        self.free.append(block)
        while sum(b.nbytes for b in self.free) > LIMIT:
            del self.free[:1]


_blocks = _Blocks()


class _Lent(np.ndarray[Any, np.dtype[np.uint8]]):
    """A block in use. Goes when the last tensor on it does."""

    block: Block

    def __del__(self, blocks: _Blocks = _blocks) -> None:
        if hasattr(self, "block"):  # not a view of it
            blocks.give(self.block)


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """``torch.empty`` on CPU, in memory of an earlier result where one has gone.

    The tensor is an ordinary one, but that its storage cannot be resized.
    """
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < SMALLEST:
        return torch.empty(shape, dtype=dtype)
    if nbytes > LIMIT:
        out = torch.empty(shape, dtype=dtype)
        native.huge_pages(out)
        return out
    block = _blocks.take(nbytes)
    lent = block[:nbytes].view(_Lent)
    lent.block = block
    return torch.from_numpy(lent).view(dtype).view(shape)


def _allocate(nbytes: int) -> Block:
    """A fresh block of whole huge pages."""
    size = -(-nbytes // _HUGE_PAGE) * _HUGE_PAGE
    memory = np.empty(size + _HUGE_PAGE, np.uint8)
    start = -memory.ctypes.data % _HUGE_PAGE
    block = memory[start : start + size]
    native.huge_pages(torch.from_numpy(block))
    return block
