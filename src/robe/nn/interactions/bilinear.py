"""The two layers of FiBiNET: weights of features, and products of pairs through a matrix."""

import torch
from torch import Tensor, nn

from robe.checks import nearest

BILINEAR_KINDS = ("all", "each", "interaction")


class SqueezeExcitation(nn.Module):
    """SENET: scales every feature vector by a weight made of the means of all (FiBiNET, Huang et al. 2019, 3.3).

    Args:
        num_features: F.
        reduction_ratio: the hidden layer has ``max(1, F // reduction_ratio)`` units.
    """

    def __init__(self, num_features: int, reduction_ratio: int = 3) -> None:
        super().__init__()
        hidden = max(1, num_features // reduction_ratio)
        self.excitation = nn.Sequential(
            nn.Linear(num_features, hidden, bias=False),
            nn.ReLU(),
            nn.Linear(hidden, num_features, bias=False),
            nn.ReLU(),
        )

    def forward(self, features: Tensor) -> Tensor:
        """[B, F, D] -> [B, F, D]."""
        weights: Tensor = self.excitation(features.mean(2))  # [B, F]
        return features * weights.unsqueeze(2)


class BilinearInteraction(nn.Module):
    """``(W x_i) * x_j`` for all pairs i < j of feature vectors (FiBiNET, Huang et al. 2019, 3.4).

    Args:
        num_features: F.
        dim: D.
        kind: ``"all"``: one W; ``"each"``: one per i; ``"interaction"``: one per pair.

    Raises:
        ValueError: ``kind`` is unknown.
    """

    def __init__(self, num_features: int, dim: int, kind: str = "interaction") -> None:
        super().__init__()
        if kind not in BILINEAR_KINDS:
            raise ValueError(f"bilinear: unknown {kind!r}; {nearest(kind, BILINEAR_KINDS)}")
        self.kind = kind
        self.num_pairs = num_features * (num_features - 1) // 2
        matrices = {"all": 1, "each": num_features - 1, "interaction": self.num_pairs}[kind]
        self.weight = nn.Parameter(torch.empty(matrices, dim, dim))
        bound = dim**-0.5  # as a linear layer of torch
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, features: Tensor) -> Tensor:
        """[B, F, D] -> [B, F (F - 1) / 2, D], pairs (0, 1), (0, 2), ..., (1, 2), ..."""
        products, pair = [], 0
        for i in range(features.shape[1] - 1):
            left, right = features[:, i], features[:, i + 1 :]
            if self.kind == "interaction":  # the matrices of i's pairs below one another: one product
                weight = self.weight[pair : pair + right.shape[1]].flatten(0, 1)
                image = nn.functional.linear(left, weight).view_as(right)
            else:
                image = nn.functional.linear(left, self.weight[i if self.kind == "each" else 0]).unsqueeze(1)
            products.append(image * right)
            pair += right.shape[1]
        return torch.cat(products, dim=1)
