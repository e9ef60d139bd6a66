"""Compressed interaction network of xDeepFM."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class CompressedInteraction(nn.Module):
    """Feature maps of rising degree, each a learned sum of products with the input (Lian et al. 2018, equation 6).

    Map n of a layer is ``relu(sum over h, f of W[n, h, f] x_h * x0_f + b[n])``, element by element of D: x the maps of
    the layer before, x0 the input.

    Args:
        num_features: F.
        maps: feature maps of each layer; even, but for the last, with ``split_half``.
        split_half: one half of a layer's maps feeds the next layer and the other one the output, rather than all both;
            as in the authors' code.

    Raises:
        ValueError: there is no layer, or an odd number of maps to split.
    """

    def __init__(self, num_features: int, maps: Sequence[int], split_half: bool = True) -> None:
        super().__init__()
        if not maps:
            raise ValueError("maps: expected at least one layer, such as (200, 200, 200), got none")
        if split_half and any(n % 2 for n in maps[:-1]):
            raise ValueError(f"maps: expected even numbers before the last one with split_half=True, got {tuple(maps)}")
        self.split_half = split_half
        inputs = [num_features, *(n // 2 if split_half else n for n in maps[:-1])]
        self.layers = nn.ModuleList(nn.Linear(h * num_features, n) for h, n in zip(inputs, maps, strict=True))
        self.num_outputs = sum(maps) - sum(inputs[1:]) if split_half else sum(maps)

    def forward(self, features: Tensor) -> Tensor:
        """[B, F, D] -> [B, num_outputs], maps summed over D."""
        base = features.transpose(1, 2)  # [B, D, F]: the maps' sums become one matrix product per layer
        hidden, outputs = base, []
        for i, layer in enumerate(self.layers):
            products = (hidden.unsqueeze(3) * base.unsqueeze(2)).flatten(2)  # [B, D, H F]
            maps = torch.relu(layer(products))  # [B, D, N]
            if self.split_half and i < len(self.layers) - 1:
                hidden, maps = maps.chunk(2, dim=2)
            else:
                hidden = maps
            outputs.append(maps.sum(1))
        return torch.cat(outputs, dim=1)
