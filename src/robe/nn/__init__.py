"""Modules: ROBE embeddings, the baselines they are compared with, and the layers of the models."""

from robe.nn.array import RobeArray as RobeArray
from robe.nn.baselines import FullEmbeddingCollection as FullEmbeddingCollection
from robe.nn.baselines import HashingTrickCollection as HashingTrickCollection
from robe.nn.collection import RobeEmbeddingCollection as RobeEmbeddingCollection
from robe.nn.embedding import RobeEmbedding as RobeEmbedding
from robe.nn.embedding import RobeEmbeddingBag as RobeEmbeddingBag
from robe.nn.quantized import QuantizedArray as QuantizedArray
from robe.nn.quantized import quantize as quantize
