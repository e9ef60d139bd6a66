"""Argument checks: every message names the argument, what was expected, what came, and the remedy.

Used once, at the public boundary, before any data is touched.
"""

import difflib
from collections.abc import Iterable

import torch
from torch import Tensor


def require_dtype(name: str, tensor: Tensor, *dtypes: torch.dtype) -> None:
    """Raises TypeError unless ``tensor`` has one of ``dtypes``."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a Tensor, got {type(tensor).__name__}")
    if tensor.dtype not in dtypes:
        wanted = " or ".join(str(d) for d in dtypes)
        raise TypeError(f"{name}: expected dtype {wanted}, got {tensor.dtype}")


def require_ndim(name: str, tensor: Tensor, *ndims: int) -> None:
    """Raises ValueError unless ``tensor`` has one of ``ndims`` dimensions."""
    if tensor.dim() not in ndims:
        wanted = " or ".join(str(d) for d in ndims)
        raise ValueError(f"{name}: expected {wanted} dimensions, got shape {tuple(tensor.shape)}")


def require_same_device(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Raises ValueError unless both tensors are on one device."""
    if tensor.device != other.device:
        raise ValueError(
            f"{name} is on {tensor.device}, {other_name} on {other.device}: move one of them with .to(device)"
        )


def require_positive(name: str, value: int) -> None:
    """Raises unless ``value`` is an int of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name}: expected a positive int, got {value!r}")
    if value < 1:
        raise ValueError(f"{name}: expected a positive int, got {value}")


def require_in_range(name: str, ids: Tensor, rows: int) -> None:
    """Raises IndexError unless every id is in [0, rows); ``rows`` -1 allows any.

    On a GPU this is a device-side assert, as in ``torch.nn.Embedding``: no wait for the device.
    """
    if rows < 0 or ids.numel() == 0 or ids.device.type == "meta":
        return
    if ids.device.type != "cpu":
        torch._assert_async(((ids >= 0) & (ids < rows)).all(), f"{name}: expected ids in [0, {rows})")
        return
    low, high = (int(x) for x in torch.aminmax(ids))
    if low < 0 or high >= rows:
        bad = low if low < 0 else high
        raise IndexError(f"{name}: expected ids in [0, {rows}), got {bad}")


def similar(name: str, known: Iterable[str], most: int = 1) -> list[str]:
    """The known names that an unknown one may stand for, the likeliest first; perhaps none."""
    return difflib.get_close_matches(name, known, n=most, cutoff=0.5)


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown ``name``: the nearest known one, and the list of them.

    Returns:
        Text such as ``did you mean 'seed'? Known: ['rows', 'seed']``.
    """
    known = sorted(known)
    close = similar(name, known)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known: {known}"
