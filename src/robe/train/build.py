"""Builds what a configuration describes: embedding and model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import nn

from robe.hashing import MixedHash, ReleasedHash, UniversalHash
from robe.layout import Table, resolve_num_slots
from robe.models import MODELS
from robe.nn import FullEmbeddingCollection, HashingTrickCollection, RobeEmbeddingCollection
from robe.train.config import DEFAULT_COMPRESSION, SIZES, EmbeddingConfig, RunConfig, model_options
from robe.train.optimizers import embeddings_of

if TYPE_CHECKING:
    from robe.data import Field

Collection = RobeEmbeddingCollection | FullEmbeddingCollection | HashingTrickCollection


class Schema(Protocol):
    """What of a prepared data set a model depends on; ``robe.data.PreparedDataset`` has it."""

    @property
    def fields(self) -> tuple[Field, ...]:
        """The categorical fields, in order."""

    @property
    def dense_names(self) -> tuple[str, ...]:
        """The numeric features, in order."""


def build_embedding(
    config: EmbeddingConfig,
    fields: Sequence[Field],
    dim: int,
    pooling: str = "mean",
    *,
    sparse: bool = False,
    first_order: bool = False,
) -> Collection:
    """The embedding collection of ``config`` for ``fields``.

    Args:
        config: kind, size and hash.
        fields: one table for each.
        dim: D.
        pooling: of multi-valued fields: ``"mean"``, ``"sum"`` or ``"max"``.
        sparse: gradients of the touched rows only.
        first_order: leave room for ``first_order()``: a compression counts the first-order weights too.

    Returns:
        A module ids [B, F] -> [B, F, D].

    Raises:
        ValueError: a field has no vocabulary and the kind needs one.
    """
    size = {key: getattr(config, key) for key in SIZES if getattr(config, key) is not None}
    if not size and config.kind != "full":
        size = {"compression": DEFAULT_COMPRESSION}
    unbounded = [field.name for field in fields if field.num_embeddings is None]
    if unbounded and config.kind != "robe":
        raise ValueError(
            f"embedding.kind: {config.kind!r} needs the number of ids of every field, and {unbounded[:3]} "
            "have direct ids without a vocabulary: use kind 'robe', or prepare the data with --ids vocabulary"
        )
    if unbounded and "compression" in size:
        raise ValueError(
            f"embedding.compression: unknown for fields without a vocabulary ({unbounded[:3]}): "
            "give embedding.num_slots or embedding.memory"
        )
    direct = config.direct_rows if config.kind == "robe" else 0
    tables = [
        Table(field.name, field.num_embeddings, dim, direct=field.num_embeddings in range(1, direct + 1))
        for field in fields
    ]
    common: dict[str, Any] = {"init_std": config.init_std, "mode": pooling}
    seed = config.seed or 0
    embedding: Collection
    if config.kind == "full":
        embedding = FullEmbeddingCollection(tables, sparse=sparse, **common)
    elif config.kind == "robe":
        if first_order and "compression" in size:
            every = [*tables, *(dataclasses.replace(table, embedding_dim=1) for table in tables)]
            size = {"num_slots": resolve_num_slots(every, None, size["compression"], None, torch.float32)}
        hashes = {"universal": UniversalHash, "mixed": MixedHash, "released": ReleasedHash}
        embedding = RobeEmbeddingCollection(
            tables, **size, block_size=config.block_size, hash=hashes[config.hash](seed=seed),
            use_sign=config.use_sign, **common,
        )  # fmt: skip
    else:
        capped = config.kind == "capped"
        embedding = HashingTrickCollection(tables, **size, capped=capped, seed=seed, sparse=sparse, **common)
    if config.init_uniform is not None:
        _draw_uniformly(embedding, config.init_uniform)
    return embedding


@torch.no_grad()
def _draw_uniformly(embedding: Collection, bound: float | str) -> None:
    """U(-b, b); "rows": b = sqrt(1 / rows) as in Facebook's DLRM, of the largest table for a shared array."""
    rows = [table.num_embeddings for table in embedding.tables]
    if bound == "rows" and None in rows:
        raise ValueError(
            "embedding.init_uniform: 'rows' needs the number of ids of every field; give a bound, or init_std"
        )
    bounds = [float(bound) if bound != "rows" else (n or 1) ** -0.5 for n in rows]
    if isinstance(embedding, RobeEmbeddingCollection):
        embedding.array.uniform_(-min(bounds), min(bounds))
    else:
        for table, b in zip(embedding.embeddings, bounds, strict=True):
            nn.init.uniform_(cast(nn.EmbeddingBag, table).weight, -b, b)


def build_model(config: RunConfig, schema: Schema) -> nn.Module:
    """The model of ``config`` for data of ``schema``, with initial values from torch's global generator.

    Returns:
        A module (dense [B, num_dense] or None, ids) -> logits [B]; its embedding is ``model.embedding``.

    Raises:
        ValueError: the data do not fit the configuration.
    """
    if not schema.fields:
        raise ValueError("data: expected at least one categorical field, found none")
    model = config.model
    options = model_options(model)
    own = options.get("first_order") == "own"
    embedding = build_embedding(
        config.embedding,
        schema.fields,
        model.embedding_dim,
        model.pooling,
        sparse=config.train.sparse_gradients is True,
        first_order=own,
    )
    if own:
        options["first_order"] = embedding.first_order()
    elif options.get("first_order") == "none":
        options["first_order"] = None
    if options.get("mlp_init_std") == "torch":
        options["mlp_init_std"] = None
    return MODELS[model.name](embedding, num_dense=len(schema.dense_names), **options)


@dataclass(frozen=True)
class Sizes:
    """Parameters of a model.

    Args:
        embedding: stored by the embedding and first-order weights.
        dense: all others.
        full: what full tables would store; None for fields without a vocabulary.
    """

    embedding: int
    dense: int
    full: int | None


def count(model: nn.Module) -> Sizes:
    """Counts the parameters of ``model``, each once; first-order weights of their own count as embeddings."""
    embeddings = embeddings_of(model)
    stored = sum(parameter.numel() for parameter in embeddings.parameters())
    total = sum(parameter.numel() for parameter in model.parameters())
    tables = [table for module in embeddings for table in cast(Iterable[Table], module.tables)]
    unbounded = any(table.num_embeddings is None for table in tables)
    return Sizes(stored, total - stored, None if unbounded else sum(table.full_parameters for table in tables))
