"""Self-attention among the feature vectors of a sample."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robe.ops.attention import attention


class SelfAttention(nn.Module):
    """Multi-head self-attention over features (AutoInt, Song et al. 2019), not scaled by the root of the head's size.

    ``relu(softmax(Q K^T) V + R)``, Q, K, V and the residual R linear in the features, without bias.

    Args:
        dim: D, size of the input vectors.
        head_dim: size of a head.
        num_heads: heads; the output vectors have size ``num_heads * head_dim``.
        residual: add a linear image of the input.
    """

    def __init__(self, dim: int, head_dim: int, num_heads: int = 2, residual: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.residual = residual
        self.num_outputs = num_heads * head_dim
        parts = 4 if residual else 3  # Q, K, V, R side by side: one matrix product
        self.weight = nn.Parameter(torch.empty(parts * self.num_outputs, dim))
        nn.init.normal_(self.weight, std=0.05)

    def forward(self, features: Tensor) -> Tensor:
        """[B, F, D] -> [B, F, num_outputs]."""
        return attention(F.linear(features, self.weight), self.num_heads, self.residual)
