"""FinalMLP (Mao et al. 2023): two MLPs and a bilinear fusion, the simplest of today's strongest models."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robe.jagged import Jagged
from robe.models.common import EmbeddingCollection, check_dense, common_dim, with_dense
from robe.nn.interactions import BilinearFusion
from robe.nn.mlp import hidden_layers


class FinalMLP(nn.Module):
    """Two MLPs over the same inputs, each through a gate of its own, fused bilinearly.

    A gate scales the inputs by ``2 sigmoid(g)``, learned for the whole data set: their feature selection (3.2) without
    context features, which are particular to each data set.

    Args:
        embedding: ids [B, F] -> [B, F, D]; any collection of the library.
        num_dense: numeric features; 0 for none.
        mlp: widths of the first stream.
        second_mlp: widths of the second stream.
        num_heads: heads of the fusion; divides the last widths.
        gates: scale the inputs of each stream.
        dropout: of the first stream.
        second_dropout: of the second stream; None for ``dropout``.
        batch_norm: normalise over the batch before each ReLU.
        mlp_init_std: weights of the streams start as N(0, std**2); None for torch's own start of linear layers.

    Raises:
        ValueError: the embedding's fields differ in dim, a stream has no layer, or ``num_heads`` divides no width.
    """

    def __init__(
        self,
        embedding: EmbeddingCollection,
        num_dense: int = 13,
        mlp: Sequence[int] = (400, 400, 400),
        second_mlp: Sequence[int] = (400,),
        num_heads: int = 2,
        gates: bool = True,
        dropout: float = 0.0,
        second_dropout: float | None = None,
        batch_norm: bool = False,
        mlp_init_std: float | None = None,
    ) -> None:
        super().__init__()
        for name, widths in (("mlp", mlp), ("second_mlp", second_mlp)):
            if not widths:
                raise ValueError(f"{name}: expected at least one layer, such as (400,), got none")
        num_inputs = embedding.num_fields * common_dim("FinalMLP", embedding) + num_dense
        self.embedding = embedding
        self.num_dense = num_dense
        self.gates = nn.Parameter(torch.zeros(2, num_inputs)) if gates else None  # zeros pass inputs as they are
        self.first = hidden_layers([num_inputs, *mlp], dropout, batch_norm, mlp_init_std)
        other = dropout if second_dropout is None else second_dropout
        self.second = hidden_layers([num_inputs, *second_mlp], other, batch_norm, mlp_init_std)
        self.fusion = BilinearFusion(mlp[-1], second_mlp[-1], num_heads)

    def forward(self, dense: Tensor | None, ids: Tensor | Jagged) -> Tensor:
        """Click logits [B] of ``dense`` [B, num_dense] (None without numeric features) and ``ids`` [B, F].

        Raises:
            ValueError: ``dense`` is missing, unexpected or of another width.
        """
        check_dense(dense, self.num_dense)
        flat = with_dense(self.embedding(ids).flatten(1), dense, self.num_dense)
        left = right = flat
        if self.gates is not None:
            scales = 2 * torch.sigmoid(self.gates)
            left, right = flat * scales[0], flat * scales[1]
        logits: Tensor = self.fusion(self.first(left), self.second(right))
        return logits
