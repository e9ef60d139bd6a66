"""DCN-V2 (Wang et al. 2021): today's stronger cross network."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from robe.jagged import Jagged
from robe.models.common import EmbeddingCollection, OutputLayer, check_dense, common_dim, with_dense
from robe.nn.interactions import CrossNetworkV2
from robe.nn.mlp import hidden_layers


class DCNv2(nn.Module):
    """A cross network of matrices beside a deep part ("parallel" in their Figure 1), joined by the last layer.

    Args:
        embedding: ids [B, F] -> [B, F, D]; any collection of the library.
        num_dense: numeric features; 0 for none.
        mlp: widths of the deep part, over the embeddings and numeric features.
        cross_layers: layers of the cross network, over the same.
        cross_rank: rank of the cross layers' matrices; None for whole ones.
        dropout: of the deep part.
        batch_norm: normalise over the batch before each ReLU of the deep part.
        mlp_init_std: the deep part's weights start as N(0, std**2); None for torch's own start of linear layers.

    Raises:
        ValueError: the embedding's fields differ in dim.
    """

    def __init__(
        self,
        embedding: EmbeddingCollection,
        num_dense: int = 13,
        mlp: Sequence[int] = (400, 400, 400),
        cross_layers: int = 3,
        cross_rank: int | None = None,
        dropout: float = 0.0,
        batch_norm: bool = False,
        mlp_init_std: float | None = None,
    ) -> None:
        super().__init__()
        num_inputs = embedding.num_fields * common_dim("DCNv2", embedding) + num_dense
        self.embedding = embedding
        self.num_dense = num_dense
        self.cross = CrossNetworkV2(num_inputs, cross_layers, cross_rank)
        self.deep = hidden_layers([num_inputs, *mlp], dropout, batch_norm, mlp_init_std)
        self.output = OutputLayer(num_inputs + (mlp[-1] if mlp else 0), bias=True)

    def forward(self, dense: Tensor | None, ids: Tensor | Jagged) -> Tensor:
        """Click logits [B] of ``dense`` [B, num_dense] (None without numeric features) and ``ids`` [B, F].

        Raises:
            ValueError: ``dense`` is missing, unexpected or of another width.
        """
        check_dense(dense, self.num_dense)
        flat = with_dense(self.embedding(ids).flatten(1), dense, self.num_dense)
        parts = [self.cross(flat), *([self.deep(flat)] if len(self.deep) else [])]
        logits: Tensor = self.output(*parts)
        return logits
