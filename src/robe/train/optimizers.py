"""Optimizers of the parameter groups: embeddings, by their kind, and the network."""

from __future__ import annotations

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
    """One optimizer for the network, and one for the embeddings.

    ROBE arrays have an optimizer of ``robe.optim``, tables with sparse gradients one of torch's for these. Each
    parameter is in one of them once, also an array that several collections share.

    Args:
        config: resolved.
        model: with ``embedding``, and ``first_order`` or none.
    """
    embeddings = embeddings_of(model)
    tables = list(embeddings.parameters())
    known = {id(parameter) for parameter in tables}
    network = [parameter for parameter in model.parameters() if id(parameter) not in known]
    optimizers = []
    if network:
        options = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
        optimizers.append(_torch(config.optimizer, network, config, options))
    name = config.embedding_optimizer or config.optimizer
    options = {"lr": config.embedding_learning_rate or config.learning_rate}
    if config.embedding_decay_on == "parameters":
        decay = config.embedding_weight_decay
        options["weight_decay"] = config.weight_decay if decay is None else decay
    if any(isinstance(module, RobeArray) for module in embeddings.modules()):
        optimizers.append(_fused(name, embeddings, config, options))
    elif config.sparse_gradients is True:
        optimizers.append(_sparse(name, tables, options["lr"]))
    else:
        optimizers.append(_torch(name, tables, config, options))
    return optimizers


def vector_penalty(config: TrainConfig, model: nn.Module, ids: Any) -> Tensor | None:
    """L2 of the embeddings that a batch looks up, the mean over its samples; None where there is none.

    Returns:
        ``embedding_weight_decay / 2`` times the mean over the batch of the sum of squares of a sample's embeddings,
        first-order weights included.
    """
    decay = config.weight_decay if config.embedding_weight_decay is None else config.embedding_weight_decay
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


def _torch(
    name: str, parameters: list[nn.Parameter], config: TrainConfig, options: dict[str, Any]
) -> torch.optim.Optimizer:
    if name == "adam":
        return torch.optim.Adam(parameters, fused=True, **options)
    if name == "sgd":
        return torch.optim.SGD(parameters, momentum=config.momentum, fused=True, **options)
    return torch.optim.Adagrad(parameters, **options)


def _fused(name: str, embeddings: nn.Module, config: TrainConfig, options: dict[str, Any]) -> torch.optim.Optimizer:
    if name == "adam":
        return robe.optim.Adam(embeddings, **options)
    if name == "sgd":
        return robe.optim.SGD(embeddings, momentum=config.momentum, **options)
    return robe.optim.Adagrad(embeddings, **options)


def _sparse(name: str, tables: list[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    if name == "adam":
        return torch.optim.SparseAdam(tables, lr=lr)
    if name == "sgd":
        return torch.optim.SGD(tables, lr=lr)
    return torch.optim.Adagrad(tables, lr=lr)
