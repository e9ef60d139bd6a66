"""What the models share: the contract of embeddings, numeric features, first-order terms."""

from __future__ import annotations

from typing import Literal, Protocol, cast

import torch
from torch import Tensor, nn

from robe.jagged import Jagged

TIED: Literal["tied"] = "tied"


class EmbeddingCollection(Protocol):
    """What a model asks of its embedding: any collection of ``robe.nn``, or yours."""

    num_fields: int
    embedding_dim: int | None

    def __call__(self, ids: Tensor | Jagged) -> Tensor:
        """Ids [B, F] -> [B, F, D]."""
        ...


FirstOrder = EmbeddingCollection | Literal["tied"] | None


def common_dim(model: str, embedding: EmbeddingCollection) -> int:
    """D of all fields; ValueError if they differ in it."""
    if embedding.embedding_dim is None:
        raise ValueError(f"embedding: {model} needs fields of one common embedding_dim")
    return embedding.embedding_dim


def check_dense(dense: Tensor | None, num_dense: int) -> None:
    """Raises ValueError unless ``dense`` is [B, num_dense], or None without numeric features."""
    if num_dense == 0:
        if dense is not None and dense.shape[-1] != 0:
            raise ValueError(f"dense: expected None, the model has num_dense=0; got shape {tuple(dense.shape)}")
    elif dense is None or dense.dim() != 2 or dense.shape[-1] != num_dense:
        got = None if dense is None else tuple(dense.shape)
        raise ValueError(f"dense: expected shape [B, {num_dense}], got {got}")


class ClickModel(nn.Module):
    """A model with first-order terms: one weight per id and per numeric feature, summed into the logit.

    Args:
        embedding: ids [B, F] -> [B, F, D]; any collection of the library.
        num_dense: numeric features; 0 for none.
        first_order: where the ids' weights come from. ``"tied"``: element 0 of their embeddings, as in the paper's
            runs, where both are read from the same slots. A collection of dim 1: weights of their own; for ROBE
            ``embedding.first_order()`` makes one in the same array. None: no weights for ids.

    Raises:
        ValueError: the embedding's fields differ in dim, or ``first_order`` does not fit.
    """

    def __init__(self, embedding: EmbeddingCollection, num_dense: int, first_order: FirstOrder) -> None:
        super().__init__()
        self.dim = common_dim(type(self).__name__, embedding)
        if isinstance(first_order, str):
            if first_order != TIED:
                raise ValueError(f"first_order: expected 'tied', None or a collection of dim 1, got {first_order!r}")
        elif first_order is not None and (first_order.embedding_dim, first_order.num_fields) != (
            1,
            embedding.num_fields,
        ):
            raise ValueError(
                f"first_order: expected a collection of {embedding.num_fields} fields of dim 1, got "
                f"{first_order.num_fields} of dim {first_order.embedding_dim}"
            )
        self.embedding = embedding
        self.num_dense = num_dense
        self.tied = first_order == TIED
        self.first_order = cast(EmbeddingCollection | None, None if self.tied else first_order)
        self.dense_weight = nn.Parameter(torch.empty(num_dense)) if num_dense else None
        if self.dense_weight is not None:
            nn.init.normal_(self.dense_weight, std=1e-4)
        self.bias = nn.Parameter(torch.zeros(()))

    @property
    def num_inputs(self) -> int:
        """Width of the embeddings and numeric features side by side: F D + num_dense."""
        return self.embedding.num_fields * self.dim + self.num_dense

    def inputs(self, dense: Tensor | None, ids: Tensor | Jagged) -> tuple[Tensor, Tensor]:
        """The embeddings [B, F, D], and they and the numeric features side by side [B, F D + num_dense].

        Raises:
            ValueError: ``dense`` is missing, unexpected or of another width.
        """
        check_dense(dense, self.num_dense)
        vectors = self.embedding(ids)
        return vectors, with_dense(vectors.flatten(1), dense, self.num_dense)

    def linear(self, dense: Tensor | None, ids: Tensor | Jagged, vectors: Tensor) -> Tensor:
        """Bias and first-order terms, [B]; ``vectors`` [B, F, D] are the embeddings of ``ids``."""
        logit = self.bias.expand(vectors.shape[0])
        if self.tied:
            logit = logit + vectors[:, :, 0].sum(1)
        elif self.first_order is not None:
            logit = logit + self.first_order(ids).sum((1, 2))
        if self.dense_weight is not None and dense is not None:
            logit = logit + dense @ self.dense_weight
        return logit


def with_dense(flat: Tensor, dense: Tensor | None, num_dense: int) -> Tensor:
    """[B, K] and the numeric features, if there are any, side by side."""
    return flat if dense is None or num_dense == 0 else torch.cat([flat, dense], dim=1)


class OutputLayer(nn.Linear):
    """The last layer: one logit of parts side by side, which need not be copied side by side for it.

    Args:
        num_inputs: K, the widths of all parts together.
        bias: for models that have none of their own.
    """

    def __init__(self, num_inputs: int, bias: bool = False) -> None:
        super().__init__(num_inputs, 1, bias)

    def forward(self, *parts: Tensor) -> Tensor:
        """Parts [B, K_1], [B, K_2], ... -> [B]."""
        weights = torch.split(self.weight[0], [part.shape[1] for part in parts])
        # Products of vectors: as a product of matrices the gradient of a part takes three times as long.
        logits = torch.stack([part @ weight for part, weight in zip(parts, weights, strict=True)]).sum(0)
        return logits if self.bias is None else logits + self.bias
