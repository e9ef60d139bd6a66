"""Multi-layer perceptron with the initialisation of DLRM."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def mlp(sizes: Sequence[int], last_relu: bool) -> nn.Sequential:
    """Linear layers with ReLU between them.

    Weights start as N(0, 2 / (fan_in + fan_out)) and biases as N(0, 1 / fan_out), as in Facebook's DLRM.

    Args:
        sizes: widths, input first.
        last_relu: whether a ReLU follows the last layer too.
    """
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        linear = nn.Linear(fan_in, fan_out)
        nn.init.normal_(linear.weight, std=math.sqrt(2 / (fan_in + fan_out)))
        nn.init.normal_(linear.bias, std=math.sqrt(1 / fan_out))
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*(layers if last_relu else layers[:-1]))
