"""Compressed interaction network of xDeepFM."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

SLICE = 1 << 20  # products at a time: 4 MB of float32 stay in the cache between their two uses


class CompressedInteraction(nn.Module):
    """Feature maps of rising degree, each a learned sum of products with the input (Lian et al. 2018, equation 6).

    Map n of a layer is ``relu(sum over h, f of W[n, h, f] x_h * x0_f + b[n])``, element by element of D: x the maps of
    the layer before, x0 the input.

    Args:
        num_features: F.
        maps: feature maps of each layer; even, but for the last, with ``split_half``.
        split_half: one half of a layer's maps feeds the next layer and the other one the output, rather than all both;
            as in the authors' code.

    Raises:
        ValueError: there is no layer, or an odd number of maps to split.
    """

    def __init__(self, num_features: int, maps: Sequence[int], split_half: bool = True) -> None:
        super().__init__()
        if not maps:
            raise ValueError("maps: expected at least one layer, such as (200, 200, 200), got none")
        if split_half and any(n % 2 for n in maps[:-1]):
            raise ValueError(f"maps: expected even numbers before the last one with split_half=True, got {tuple(maps)}")
        self.split_half = split_half
        inputs = [num_features, *(n // 2 if split_half else n for n in maps[:-1])]
        self.layers = nn.ModuleList(nn.Linear(h * num_features, n) for h, n in zip(inputs, maps, strict=True))
        self.num_outputs = sum(maps) - sum(inputs[1:]) if split_half else sum(maps)

    def forward(self, features: Tensor) -> Tensor:
        """[B, F, D] -> [B, num_outputs], maps summed over D."""
        base = features.transpose(1, 2)  # [B, D, F]: the maps' sums become one matrix product per layer
        hidden, outputs = base, []
        for i, layer in enumerate(cast(Iterable[nn.Linear], self.layers)):
            maps = torch.relu(sums_of_products(hidden, base, layer.weight, layer.bias))  # [B, D, N]
            if self.split_half and i < len(self.layers) - 1:
                hidden, maps = maps.chunk(2, dim=2)
            else:
                hidden = maps
            outputs.append(maps.sum(1))
        return torch.cat(outputs, dim=1)


def sums_of_products(hidden: Tensor, base: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear layer over the products of every element of ``hidden`` with every one of ``base``.

    The products, 340 MB per layer of the paper's network and batch, are made a slice at a time, in the backward again.
    Under autocast everything is in its dtype, but for the sum of the weight's gradient over the slices.

    Args:
        hidden: [B, D, H].
        base: [B, D, F].
        weight: [N, H F].
        bias: [N].

    Returns:
        [B, D, N].
    """
    if torch.compiler.is_compiling():  # compilers make of a loop over rows one step per row
        return F.linear((hidden.unsqueeze(3) * base.unsqueeze(2)).flatten(2), weight, bias)
    device = hidden.device.type
    if torch.is_autocast_enabled(device):  # a function of our own is not cast by itself
        dtype = torch.get_autocast_dtype(device)
        hidden, base, weight, bias = (tensor.to(dtype) for tensor in (hidden, base, weight, bias))
    out: Tensor = _SumsOfProducts.apply(hidden, base, weight, bias)  # type: ignore[no-untyped-call]
    return out


class _SumsOfProducts(torch.autograd.Function):
    """Forward and gradients of ``sums_of_products``; both walk over slices of the B D rows."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, base: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, base, weight)
        out = hidden.new_empty(*hidden.shape[:2], weight.shape[0])
        rows = out.view(-1, weight.shape[0])
        for part, h, b, buffer in _slices(hidden, base):
            products = torch.mul(h.unsqueeze(2), b.unsqueeze(1), out=buffer)
            torch.addmm(bias, products.flatten(1), weight.t(), out=rows[part])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        hidden, base, weight = ctx.saved_tensors
        grad = grad.reshape(-1, weight.shape[0])
        grad_hidden, grad_base = hidden.new_empty(hidden.shape), base.new_empty(base.shape)
        rows_hidden, rows_base = grad_hidden.view(-1, hidden.shape[2]), grad_base.view(-1, base.shape[2])
        whole = weight.dtype in (torch.float32, torch.float64)
        grad_weight = torch.zeros_like(weight, dtype=weight.dtype if whole else torch.float32)
        for part, h, b, buffer in _slices(hidden, base):
            products = torch.mul(h.unsqueeze(2), b.unsqueeze(1), out=buffer)
            if whole:
                grad_weight.addmm_(grad[part].t(), products.flatten(1))
            else:
                grad_weight += torch.mm(grad[part].t(), products.flatten(1))
            torch.mm(grad[part], weight, out=buffer.flatten(1))  # the gradient of the products, in their place
            torch.bmm(buffer, b.unsqueeze(2), out=rows_hidden[part].unsqueeze(2))
            torch.bmm(h.unsqueeze(1), buffer, out=rows_base[part].unsqueeze(1))
        return grad_hidden, grad_base, grad_weight.to(weight.dtype), grad.sum(0)


def _slices(hidden: Tensor, base: Tensor) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Slices of the rows [B D, H] and [B D, F], and memory for their products [rows, H, F]."""
    h, b = hidden.reshape(-1, hidden.shape[2]), base.reshape(-1, base.shape[2])
    size = max(1, SLICE // (h.shape[1] * b.shape[1]))
    buffer = h.new_empty(min(size, len(h)), h.shape[1], b.shape[1])
    for start in range(0, len(h), size):
        part = slice(start, min(start + size, len(h)))
        yield part, h[part], b[part], buffer[: part.stop - part.start]
