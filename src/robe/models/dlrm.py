"""DLRM (Naumov et al. 2019), as in Table 8 of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from robe.jagged import Jagged
from robe.models.common import EmbeddingCollection, check_dense, common_dim
from robe.nn.collection import RobeEmbeddingCollection
from robe.nn.interactions import DotInteraction
from robe.nn.mlp import mlp


class DLRM(nn.Module):
    """Bottom MLP on the numeric features, dot products of all pairs of feature vectors, top MLP.

    The defaults are Table 8's for Criteo Kaggle: bottom 13-512-256-64-16, top 512-256-1 (D = 16 comes from the
    embedding). Without numeric features there is no bottom MLP, and the top MLP sees the dot products alone.

    Args:
        embedding: ids [B, F] -> [B, F, D]; any collection of the library.
        num_dense: numeric features; 0 for none.
        bottom_mlp: hidden widths of the bottom MLP; its last layer has D outputs.
        top_mlp: hidden widths of the top MLP; its last layer has one output.
        concat_embeddings: give the embeddings themselves to the top MLP too. DLRM gives it the bottom MLP's output and
            the dot products, so that without numeric features it sees nothing of a single field.
        dropout: of the top MLP's hidden layers; none in the paper's runs.
        batch_norm: normalise over the batch before each ReLU of the top MLP; not in the paper's runs.

    Raises:
        ValueError: the embedding's fields differ in dim, or there is only one feature to interact.
    """

    def __init__(
        self,
        embedding: EmbeddingCollection,
        num_dense: int = 13,
        bottom_mlp: Sequence[int] = (512, 256, 64),
        top_mlp: Sequence[int] = (512, 256),
        concat_embeddings: bool = False,
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        dim = common_dim("DLRM", embedding)
        features = embedding.num_fields + (num_dense > 0)
        if features < 2 and not concat_embeddings:
            raise ValueError(
                "embedding: DLRM needs at least two features to interact, numeric ones counted as one; "
                "with a single field give concat_embeddings=True (model.concat_embeddings)"
            )
        self.embedding = embedding
        self.num_dense = num_dense
        self.concat_embeddings = concat_embeddings
        self.bottom = mlp([num_dense, *bottom_mlp, dim], last_relu=True) if num_dense else None
        self.interaction = DotInteraction(features)
        top_inputs = self.interaction.num_outputs + (dim if num_dense else 0)
        top_inputs += dim * embedding.num_fields if concat_embeddings else 0
        self.top = mlp([top_inputs, *top_mlp, 1], last_relu=False, dropout=dropout, batch_norm=batch_norm)

    def forward(self, dense: Tensor | None, ids: Tensor | Jagged) -> Tensor:
        """Click logits.

        Args:
            dense: numeric features, [B, num_dense]; None without numeric features.
            ids: int64 [B, F] or ``robe.Jagged``.

        Returns:
            [B]; the click probability is their sigmoid.

        Raises:
            ValueError: ``dense`` is missing, unexpected or of another width.
        """
        check_dense(dense, self.num_dense)
        bottom: Tensor | None = None if self.bottom is None else self.bottom(dense)
        robe = self.embedding if isinstance(self.embedding, RobeEmbeddingCollection) else None
        if robe is not None and not self.concat_embeddings and robe.fuses_dot(ids, bottom):
            fused: Tensor = self.top(robe.dot(cast(Tensor, ids), bottom)).squeeze(-1)
            return fused
        vectors = self.embedding(ids)  # [B, F, D]
        parts = [vectors.flatten(1)] if self.concat_embeddings else []
        if bottom is not None:
            parts.append(bottom)
            vectors = torch.cat([bottom.unsqueeze(1), vectors], dim=1)
        logits: Tensor = self.top(torch.cat([*parts, self.interaction(vectors)], dim=1)).squeeze(-1)
        return logits
