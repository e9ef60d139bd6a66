"""Optimizers of the parameter groups: embeddings, by their kind, and the network."""

from __future__ import annotations

import fnmatch
from typing import Any

import torch
from torch import Tensor, nn

import robe.optim
from robe.nn import RobeArray
from robe.train.config import TrainConfig


def embeddings_of(model: nn.Module) -> nn.ModuleList:
    """The collections that a model looks ids up in: its embedding, and first-order weights of their own."""
    modules = [model.embedding, getattr(model, "first_order", None)]
    return nn.ModuleList(module for module in modules if isinstance(module, nn.Module))


def build_optimizers(config: TrainConfig, model: nn.Module) -> list[torch.optim.Optimizer]:
    """The optimizers of a model, which have every parameter once, also an array that several collections share.

    ROBE arrays have an optimizer of ``robe.optim``, tables with sparse gradients one for these. Other tables
    are a second group of the network's optimizer, or have their own where ``embedding_optimizer`` is another.

    Args:
        config: how to train.
        model: with ``embedding``, and ``first_order`` or none.
    """
    embeddings = embeddings_of(model)
    arrays = {id(module.array) for module in embeddings.modules() if isinstance(module, RobeArray)}
    sparse = {
        id(module.weight)
        for module in embeddings.modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse
    }
    looked_up = {id(parameter) for parameter in embeddings.parameters()}
    network = [(path, parameter) for path, parameter in model.named_parameters() if id(parameter) not in looked_up]
    tables = [parameter for parameter in embeddings.parameters() if id(parameter) not in arrays | sparse]

    name = config.embedding_optimizer or config.optimizer
    options = {"lr": config.embedding_learning_rate or config.learning_rate}
    options["weight_decay"] = _embedding_decay(config) if config.embedding_decay_on == "parameters" else 0.0
    groups: dict[str, list[dict[str, Any]]] = {}
    for kind, group in (
        *((config.optimizer, group) for group in _network_groups(config, network)),
        (name, {"params": tables, **options}),
    ):
        if group["params"]:
            groups.setdefault(kind, []).append(group)
    optimizers = [_torch(kind, config, of_kind) for kind, of_kind in groups.items()]
    if arrays:
        optimizers.append(_fused(name, embeddings, config, options))
    if sparse:
        optimizers.append(_sparse(name, [p for p in embeddings.parameters() if id(p) in sparse], options["lr"]))
    return optimizers


def vector_penalty(config: TrainConfig, model: nn.Module, ids: Any) -> Tensor | None:
    """L2 of the embeddings that a batch looks up, the mean over its samples; None where there is none.

    Returns:
        ``embedding_weight_decay / 2`` times the mean over the batch of the sum of squares of a sample's embeddings,
        first-order weights included.
    """
    decay = _embedding_decay(config)
    if config.embedding_decay_on != "vectors" or not decay:
        return None
    squares = [module(ids).float().flatten(1).square().sum(1).mean() for module in embeddings_of(model)]
    return 0.5 * decay * torch.stack(squares).sum()


def clip_gradients(model: nn.Module, optimizers: list[torch.optim.Optimizer], max_norm: float) -> None:
    """Scales the gradients of all parameters so that their norm is at most ``max_norm``.

    Gradients that ``robe.optim`` recorded become dense ones first, of the size of the array.
    """
    for optimizer in optimizers:
        if isinstance(optimizer, (robe.optim.SGD, robe.optim.Adagrad, robe.optim.Adam)):
            optimizer.materialize_grads()
    nn.utils.clip_grad_norm_(model.parameters(), max_norm)


def _embedding_decay(config: TrainConfig) -> float:
    return config.weight_decay if config.embedding_weight_decay is None else config.embedding_weight_decay


def _network_groups(config: TrainConfig, network: list[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
    """The network's parameters with the L2 penalty, and those without."""
    penalised = {
        path for path, _ in network for pattern in config.weight_decay_on if fnmatch.fnmatchcase(path, pattern)
    }
    if config.weight_decay and not penalised:
        raise ValueError(
            f"train.weight_decay_on: expected patterns of names of the network's parameters, got "
            f"{list(config.weight_decay_on)}, which match none of {[path for path, _ in network]}"
        )
    with_it = [parameter for path, parameter in network if path in penalised]
    without = [parameter for path, parameter in network if path not in penalised]
    return [
        {"params": with_it, "lr": config.learning_rate, "weight_decay": config.weight_decay},
        {"params": without, "lr": config.learning_rate, "weight_decay": 0.0},
    ]


def _torch(name: str, config: TrainConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    if name == "adam":
        return torch.optim.Adam(groups, fused=True)
    if name == "sgd":
        return torch.optim.SGD(groups, momentum=config.momentum, fused=True)
    return torch.optim.Adagrad(groups)


def _fused(name: str, embeddings: nn.Module, config: TrainConfig, options: dict[str, Any]) -> torch.optim.Optimizer:
    if name == "adam":
        return robe.optim.Adam(embeddings, **options)
    if name == "sgd":
        return robe.optim.SGD(embeddings, momentum=config.momentum, **options)
    return robe.optim.Adagrad(embeddings, **options)


def _sparse(name: str, tables: list[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    if name == "adam":
        return robe.optim.SparseAdam(tables, lr=lr)
    if name == "sgd":
        return torch.optim.SGD(tables, lr=lr)
    return torch.optim.Adagrad(tables, lr=lr)
