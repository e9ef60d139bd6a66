"""AutoInt (Song et al. 2019), as in Table 8 of the paper."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from robe.jagged import Jagged
from robe.models.common import ClickModel, EmbeddingCollection, FirstOrder, OutputLayer
from robe.nn.interactions import SelfAttention
from robe.nn.mlp import hidden_layers


class AutoInt(ClickModel):
    """Layers of self-attention over the embeddings beside a deep part ("AutoInt+"), joined by the last layer.

    The defaults are those of the paper's runs (Table 8, and DeepCTR-Torch 0.2.6 where it is silent).

    Args:
        embedding: ids [B, F] -> [B, F, D]; any collection of the library.
        num_dense: numeric features; 0 for none. They reach the deep part and the first-order terms alone.
        mlp: widths of the deep part, over the embeddings and numeric features; () for none (plain AutoInt).
        attention_layers: layers of self-attention.
        attention_heads: heads of each.
        attention_dim: size of a head.
        attention_residual: add a linear image of a layer's input to its output.
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
        attention_layers: int = 3,
        attention_heads: int = 2,
        attention_dim: int = 32,
        attention_residual: bool = True,
        dropout: float = 0.0,
        batch_norm: bool = False,
        first_order: FirstOrder = "tied",
        mlp_init_std: float | None = 1e-4,
    ) -> None:
        super().__init__(embedding, num_dense, first_order)
        dims = [self.dim, *[attention_heads * attention_dim] * attention_layers]
        self.attention = nn.Sequential(
            *(SelfAttention(dim, attention_dim, attention_heads, attention_residual) for dim in dims[:-1])
        )
        self.deep = hidden_layers([self.num_inputs, *mlp], dropout, batch_norm, mlp_init_std)
        self.output = OutputLayer(embedding.num_fields * dims[-1] + (mlp[-1] if mlp else 0))

    def forward(self, dense: Tensor | None, ids: Tensor | Jagged) -> Tensor:
        """Click logits [B] of ``dense`` [B, num_dense] (None without numeric features) and ``ids`` [B, F]."""
        vectors, flat = self.inputs(dense, ids)
        parts = [self.attention(vectors).flatten(1), *([self.deep(flat)] if len(self.deep) else [])]
        logits: Tensor = self.linear(dense, ids, vectors) + self.output(*parts)
        return logits
