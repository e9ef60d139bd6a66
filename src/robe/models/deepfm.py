"""DeepFM (Guo et al. 2017), as in Table 8 of the paper."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from robe.jagged import Jagged
from robe.models.common import ClickModel, EmbeddingCollection, FirstOrder, OutputLayer
from robe.nn.interactions import FactorizationMachine
from robe.nn.mlp import hidden_layers


class DeepFM(ClickModel):
    """First-order terms, a factorization machine and a deep part on the same embeddings, added up.

    The defaults are those of the paper's runs (Table 8, and DeepCTR-Torch where it is silent).

    Args:
        embedding: ids [B, F] -> [B, F, D]; any collection of the library.
        num_dense: numeric features; 0 for none.
        mlp: widths of the deep part, over the embeddings and numeric features.
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
        mlp: Sequence[int] = (400, 400, 400),
        dropout: float = 0.5,
        batch_norm: bool = False,
        first_order: FirstOrder = "tied",
        mlp_init_std: float | None = 1e-4,
    ) -> None:
        super().__init__(embedding, num_dense, first_order)
        widths = [self.num_inputs, *mlp]
        self.fm = FactorizationMachine()
        self.deep = nn.Sequential(hidden_layers(widths, dropout, batch_norm, mlp_init_std), OutputLayer(widths[-1]))

    def forward(self, dense: Tensor | None, ids: Tensor | Jagged) -> Tensor:
        """Click logits [B] of ``dense`` [B, num_dense] (None without numeric features) and ``ids`` [B, F]."""
        vectors, flat = self.inputs(dense, ids)
        logits: Tensor = self.linear(dense, ids, vectors) + self.fm(vectors) + self.deep(flat)
        return logits
