"""Cross networks: products of the input with learned projections of itself, one degree more per layer."""

import math

import torch
from torch import Tensor, nn


class CrossNetwork(nn.Module):
    """``x_{l+1} = x_0 (x_l . w_l) + b_l + x_l``: a vector per layer (DCN, Wang et al. 2017, equation 3).

    Args:
        num_inputs: K, width of the input.
        num_layers: L.
    """

    def __init__(self, num_inputs: int, num_layers: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_layers, num_inputs))
        self.bias = nn.Parameter(torch.zeros(num_layers, num_inputs))
        nn.init.normal_(self.weight, std=math.sqrt(2 / (num_inputs + 1)))  # Xavier, of each layer

    def forward(self, x: Tensor) -> Tensor:
        """[B, K] -> [B, K]."""
        crossed = x
        for weight, bias in zip(self.weight, self.bias, strict=True):
            crossed = torch.addcmul(crossed + bias, x, (crossed @ weight).unsqueeze(1))
        return crossed


class CrossNetworkV2(nn.Module):
    """``x_{l+1} = x_0 * (W_l x_l + b_l) + x_l``: a matrix per layer (DCN-V2, Wang et al. 2021, equation 1).

    Args:
        num_inputs: K, width of the input.
        num_layers: L.
        rank: factor each matrix as U V of this rank (their equation 2); None for whole matrices.
    """

    def __init__(self, num_inputs: int, num_layers: int, rank: int | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_matrix(num_inputs, rank) for _ in range(num_layers))

    def forward(self, x: Tensor) -> Tensor:
        """[B, K] -> [B, K]."""
        crossed = x
        for layer in self.layers:
            crossed = torch.addcmul(crossed, x, layer(crossed))
        return crossed


def _matrix(num_inputs: int, rank: int | None) -> nn.Module:
    if rank is None:
        return nn.Linear(num_inputs, num_inputs)
    return nn.Sequential(nn.Linear(num_inputs, rank, bias=False), nn.Linear(rank, num_inputs))
