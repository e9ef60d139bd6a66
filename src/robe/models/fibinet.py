"""FiBiNET (Huang et al. 2019), as in Table 8 of the paper."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robe.jagged import Jagged
from robe.models.common import ClickModel, EmbeddingCollection, FirstOrder, OutputLayer, check_dense, with_dense
from robe.nn.interactions import BilinearInteraction, SqueezeExcitation
from robe.nn.mlp import hidden_layers


class FiBiNET(ClickModel):
    """Bilinear products of all pairs, of the embeddings and of the embeddings weighted by a SENET, into a deep part.

    The defaults are those of the paper's runs (Table 8, and DeepCTR-Torch where it is silent: both products share
    their matrices).

    Args:
        embedding: ids [B, F] -> [B, F, D]; any collection of the library.
        num_dense: numeric features; 0 for none. They reach the deep part and the first-order terms alone.
        mlp: widths of the deep part, over the products and numeric features.
        reduction_ratio: of the SENET's hidden layer.
        bilinear: matrices: ``"interaction"``, one per pair; ``"each"``, one per field; ``"all"``, one.
        dropout: of the deep part.
        batch_norm: normalise over the batch before each ReLU of the deep part.
        first_order: ``"tied"``, a collection of dim 1, or None; see ``ClickModel``.
        mlp_init_std: the deep part's weights start as N(0, std**2); None for torch's own start of linear layers.

    Raises:
        ValueError: the embedding's fields differ in dim or are fewer than two, or ``first_order`` or ``bilinear`` does
            not fit.
    """

    def __init__(
        self,
        embedding: EmbeddingCollection,
        num_dense: int = 13,
        mlp: Sequence[int] = (400, 400, 400),
        reduction_ratio: int = 3,
        bilinear: str = "interaction",
        dropout: float = 0.5,
        batch_norm: bool = False,
        first_order: FirstOrder = "tied",
        mlp_init_std: float | None = 1e-4,
    ) -> None:
        super().__init__(embedding, num_dense, first_order)
        if embedding.num_fields < 2:
            raise ValueError(f"embedding: FiBiNET needs at least two fields to pair, got {embedding.num_fields}")
        self.senet = SqueezeExcitation(embedding.num_fields, reduction_ratio)
        self.bilinear = BilinearInteraction(embedding.num_fields, self.dim, bilinear)
        widths = [2 * self.bilinear.num_pairs * self.dim + num_dense, *mlp]
        self.deep = nn.Sequential(hidden_layers(widths, dropout, batch_norm, mlp_init_std), OutputLayer(widths[-1]))

    def forward(self, dense: Tensor | None, ids: Tensor | Jagged) -> Tensor:
        """Click logits [B] of ``dense`` [B, num_dense] (None without numeric features) and ``ids`` [B, F]."""
        check_dense(dense, self.num_dense)
        vectors = self.embedding(ids)  # [B, F, D]
        pairs = torch.cat([self.bilinear(self.senet(vectors)), self.bilinear(vectors)], dim=1)  # [B, F (F - 1), D]
        deep: Tensor = self.deep(with_dense(pairs.flatten(1), dense, self.num_dense))
        return self.linear(dense, ids, vectors) + deep
