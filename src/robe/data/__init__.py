"""Prepared data sets: making them, opening them, and iterating over their batches."""

from robe.data.columns import Batch, Field
from robe.data.criteo import CriteoSpec, encode_criteo, generate_kaggle, generate_terabyte, prepare_criteo
from robe.data.dataset import PreparedDataset, Split
from robe.data.format import DataError
from robe.data.loader import Loader
from robe.data.prefetch import Prefetcher
from robe.data.spec import TableSpec
from robe.data.synthetic import SyntheticSpec, generate
from robe.data.table import encode_table, prepare_table

__all__ = [
    "Batch",
    "CriteoSpec",
    "DataError",
    "Field",
    "Loader",
    "Prefetcher",
    "PreparedDataset",
    "Split",
    "SyntheticSpec",
    "TableSpec",
    "encode_criteo",
    "encode_table",
    "generate",
    "generate_kaggle",
    "generate_terabyte",
    "prepare_criteo",
    "prepare_table",
]
