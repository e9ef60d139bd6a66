"""Compressed embeddings for recommendation models: one small shared array (ROBE) instead of embedding tables.

Names are imported when first used, so that ``import robe`` and ``robe --help`` do not wait for torch.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robe import functional as functional
    from robe import models as models
    from robe import ops as ops
    from robe import optim as optim
    from robe.hashing import MixedHash as MixedHash
    from robe.hashing import ReleasedHash as ReleasedHash
    from robe.hashing import UniversalHash as UniversalHash
    from robe.jagged import Jagged as Jagged
    from robe.layout import Layout as Layout
    from robe.layout import Table as Table
    from robe.nn import FullEmbeddingCollection as FullEmbeddingCollection
    from robe.nn import HashingTrickCollection as HashingTrickCollection
    from robe.nn import QuantizedArray as QuantizedArray
    from robe.nn import RobeArray as RobeArray
    from robe.nn import RobeEmbedding as RobeEmbedding
    from robe.nn import RobeEmbeddingBag as RobeEmbeddingBag
    from robe.nn import RobeEmbeddingCollection as RobeEmbeddingCollection
    from robe.nn import quantize as quantize

try:
    __version__ = version("robe")
except PackageNotFoundError:  # run from a checkout that was never installed, with PYTHONPATH=src
    __version__ = "0+checkout"

_HOME = {
    "Jagged": "robe.jagged",
    "Layout": "robe.layout",
    "Table": "robe.layout",
    "MixedHash": "robe.hashing",
    "ReleasedHash": "robe.hashing",
    "UniversalHash": "robe.hashing",
    "FullEmbeddingCollection": "robe.nn",
    "HashingTrickCollection": "robe.nn",
    "QuantizedArray": "robe.nn",
    "RobeArray": "robe.nn",
    "RobeEmbedding": "robe.nn",
    "RobeEmbeddingBag": "robe.nn",
    "RobeEmbeddingCollection": "robe.nn",
    "quantize": "robe.nn",
}
_SUBMODULES = ("compare", "data", "functional", "models", "nn", "ops", "optim", "recipes", "train")

__all__ = ["__version__", *_HOME, *_SUBMODULES]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name in _SUBMODULES:
        return import_module(f"robe.{name}")
    raise AttributeError(f"module 'robe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
