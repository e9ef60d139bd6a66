"""Dot products of all pairs: the interaction of DLRM."""

import torch
from torch import Tensor, nn


class DotInteraction(nn.Module):
    """The dot products of all pairs of different feature vectors (DLRM, Naumov et al. 2019).

    Args:
        num_features: F, vectors per sample.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    @property
    def num_outputs(self) -> int:
        """F * (F - 1) / 2."""
        return self.num_features * (self.num_features - 1) // 2

    def forward(self, features: Tensor) -> Tensor:
        """[B, F, D] -> [B, F * (F - 1) / 2], pairs (1, 0), (2, 0), (2, 1), (3, 0), ..."""
        products = torch.bmm(features, features.transpose(1, 2))  # [B, F, F]
        # Made anew: a buffer would be lost on the way through the meta device.
        row, column = torch.tril_indices(self.num_features, self.num_features, offset=-1, device=features.device)
        return products.flatten(1).index_select(1, row * self.num_features + column)
