"""Fusion of two streams into a logit, for FinalMLP."""

import math

import torch
from torch import Tensor, nn


class BilinearFusion(nn.Module):
    """``b + w1 . x + w2 . y + sum over heads of x_h W_h y_h`` (FinalMLP, Mao et al. 2023, equations 8 and 9).

    Args:
        num_left: width of x, a multiple of ``num_heads``.
        num_right: width of y, a multiple of ``num_heads``.
        num_heads: both are cut into this many parts.

    Raises:
        ValueError: a width is no multiple of ``num_heads``.
    """

    def __init__(self, num_left: int, num_right: int, num_heads: int = 1) -> None:
        super().__init__()
        if num_left % num_heads or num_right % num_heads:
            raise ValueError(f"num_heads: expected a divisor of the widths {num_left} and {num_right}, got {num_heads}")
        self.linear = nn.Linear(num_left + num_right, 1)
        self.weight = nn.Parameter(torch.empty(num_heads, num_left // num_heads, num_right // num_heads))
        nn.init.normal_(self.weight, std=math.sqrt(2 / sum(self.weight.shape[1:])))  # Xavier, of each head

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """[B, num_left], [B, num_right] -> [B]."""
        heads, rows, columns = self.weight.shape
        x = left.view(left.shape[0], heads, rows).transpose(0, 1)  # [H, B, .]
        y = right.view(right.shape[0], heads, columns).transpose(0, 1)
        bilinear = (torch.bmm(x, self.weight) * y).sum((0, 2))
        logits: Tensor = self.linear(torch.cat([left, right], dim=1)).squeeze(1) + bilinear
        return logits
