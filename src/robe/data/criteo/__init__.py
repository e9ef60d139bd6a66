"""Criteo Kaggle and Criteo Terabyte, from raw files to prepared data sets: docs/criteo.md."""

from robe.data.criteo.generate import generate_kaggle, generate_terabyte
from robe.data.criteo.predict import encode_criteo
from robe.data.criteo.prepare import prepare_criteo
from robe.data.criteo.spec import CriteoSpec

__all__ = ["CriteoSpec", "encode_criteo", "generate_kaggle", "generate_terabyte", "prepare_criteo"]
