"""The deterministic gradient: pieces summed in the order of a stable sort of their first slots.

Every slot's sum is made by one program, in an order that depends on the slots alone, so that equal inputs give equal
bits. Pieces have positions rather than slots: hashed ones keep their first slot and may run over the end of the hashed
part, m, by less than PIECE; direct rows lie PIECE above their slots, out of that reach. Slot s of the hashed part
is met at position s, and at position s + m by pieces that wrap.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robe.ops.triton.backward import sum_kernel
from robe.ops.triton.launch import ceil_div, launch

BLOCK = 128  # slots of a program
TURN = 16  # pieces summed at a time
NOWHERE = 2**63 - 1  # position of pieces that do not exist: behind all others


def bounds_of(starts: Tensor, num_slots: int, num_hashed: int, piece: int) -> Tensor:
    """Which of the sorted ``starts`` may touch each block of slots: int64 [blocks, 4], begin and end, twice."""
    first = torch.arange(0, num_slots, BLOCK, device=starts.device)
    last = (first + BLOCK - 1).clamp_(max=num_slots - 1)

    def position(slot: Tensor) -> Tensor:
        return slot + (slot >= num_hashed) * piece

    begin, end = position(first) - piece + 1, position(last) + 1
    wrap_begin = first + (num_hashed - piece + 1)
    wrap_end = torch.where(first < piece, (last + 1).clamp_(max=piece) + num_hashed, wrap_begin)
    return torch.searchsorted(starts, torch.stack([begin, end, wrap_begin, wrap_end], 1))


def sum_pieces(total: Tensor, values: Tensor, starts: Tensor, num_hashed: int, piece: int, **options: Any) -> None:
    """Writes the sums of pieces [P, piece] with first positions ``starts`` [P] to ``total`` [m]."""
    starts, order = torch.sort(starts, stable=True)
    num_slots = total.shape[0]
    launch(
        sum_kernel,
        ceil_div(num_slots, BLOCK),
        total,
        total,
        values,
        starts,
        order,
        bounds_of(starts, num_slots, num_hashed, piece),
        num_slots,
        num_hashed,
        PIECE=piece,
        BLOCK=BLOCK,
        TURN=TURN,
        **options,
    )
