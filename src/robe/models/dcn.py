"""Deep & Cross Network (Wang et al. 2017), as in Table 8 of the paper."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from robe.jagged import Jagged
from robe.models.common import ClickModel, EmbeddingCollection, FirstOrder, OutputLayer
from robe.nn.interactions import CrossNetwork
from robe.nn.mlp import hidden_layers


class DCN(ClickModel):
    """A cross network beside a deep part, joined by the last layer; first-order terms as in DeepCTR-Torch.

    The defaults are those of the paper's runs (Table 8, and the authors' script where it is silent: one cross layer).

    Args:
        embedding: ids [B, F] -> [B, F, D]; any collection of the library.
        num_dense: numeric features; 0 for none.
        mlp: widths of the deep part, over the embeddings and numeric features.
        cross_layers: layers of the cross network, over the same.
        dropout: of the deep part.
        batch_norm: normalise over the batch before each ReLU of the deep part.
        first_order: ``"tied"``, a collection of dim 1, or None; see ``ClickModel``.
        mlp_init_std: the deep part's weights start as N(0, std**2); None for torch's own start of linear layers.

    Raises:
        ValueError: the embedding's fields differ in dim, or ``first_order`` does not fit.
    """

    def __init__(
        self,
        embedding: EmbeddingCollection,
        num_dense: int = 13,
        mlp: Sequence[int] = (1024, 1024, 1024, 1024),
        cross_layers: int = 1,
        dropout: float = 0.0,
        batch_norm: bool = False,
        first_order: FirstOrder = "tied",
        mlp_init_std: float | None = 1e-4,
    ) -> None:
        super().__init__(embedding, num_dense, first_order)
        widths = [self.num_inputs, *mlp]
        self.cross = CrossNetwork(self.num_inputs, cross_layers)
        self.deep = hidden_layers(widths, dropout, batch_norm, mlp_init_std)
        self.output = OutputLayer(self.num_inputs + (mlp[-1] if mlp else 0))

    def forward(self, dense: Tensor | None, ids: Tensor | Jagged) -> Tensor:
        """Click logits [B] of ``dense`` [B, num_dense] (None without numeric features) and ``ids`` [B, F]."""
        vectors, flat = self.inputs(dense, ids)
        parts = [self.cross(flat), *([self.deep(flat)] if len(self.deep) else [])]
        logits: Tensor = self.linear(dense, ids, vectors) + self.output(*parts)
        return logits
