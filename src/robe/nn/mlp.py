"""Multi-layer perceptrons."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def mlp(sizes: Sequence[int], last_relu: bool, dropout: float = 0.0, batch_norm: bool = False) -> nn.Sequential:
    """Linear layers with ReLU between them, as in DLRM.

    Weights start as N(0, 2 / (fan_in + fan_out)) and biases as N(0, 1 / fan_out), as in Facebook's DLRM.

    Args:
        sizes: widths, input first.
        last_relu: whether a ReLU follows the last layer too.
        dropout: probability of dropping a unit's output after each ReLU while training.
        batch_norm: normalise over the batch before each ReLU.
    """
    layers: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        linear = nn.Linear(fan_in, fan_out)
        nn.init.normal_(linear.weight, std=math.sqrt(2 / (fan_in + fan_out)))
        nn.init.normal_(linear.bias, std=math.sqrt(1 / fan_out))
        relu = last_relu or i < len(sizes) - 2
        layers += [linear, *(_after(fan_out, dropout, batch_norm) if relu else [])]
    return nn.Sequential(*layers)


def hidden_layers(
    sizes: Sequence[int], dropout: float = 0.0, batch_norm: bool = False, init_std: float | None = None
) -> nn.Sequential:
    """Layers of linear, batch normalisation, ReLU and dropout: the deep part of the other models.

    Args:
        sizes: widths, input first.
        dropout: probability of dropping a unit's output while training.
        batch_norm: normalise over the batch before each ReLU.
        init_std: weights start as N(0, init_std**2); None for torch's own start of linear layers.
    """
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        linear = nn.Linear(fan_in, fan_out)
        if init_std is not None:
            nn.init.normal_(linear.weight, std=init_std)
        layers += [linear, *_after(fan_out, dropout, batch_norm)]
    return nn.Sequential(*layers)


def _after(width: int, dropout: float, batch_norm: bool) -> list[nn.Module]:
    """What follows a hidden linear layer."""
    return [
        *([nn.BatchNorm1d(width)] if batch_norm else []),
        nn.ReLU(inplace=True),  # nothing else needs what went in: half the memory of a layer
        *([nn.Dropout(dropout)] if dropout else []),
    ]
