"""Training: configuration, loop, metrics, run folders."""

from robe.train.build import build_embedding, build_model
from robe.train.config import (
    DataConfig,
    EmbeddingConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    load_config,
    parse_overrides,
    resolve,
    to_dict,
    to_yaml,
)
from robe.train.metrics import auc, logloss
from robe.train.optimizers import build_optimizers
from robe.train.result import LoadedRun, RunResult, load_result, load_run
from robe.train.runner import run
from robe.train.scoring import evaluate, predict

__all__ = [
    "DataConfig",
    "EmbeddingConfig",
    "LoadedRun",
    "ModelConfig",
    "RunConfig",
    "RunResult",
    "TrainConfig",
    "auc",
    "build_embedding",
    "build_model",
    "build_optimizers",
    "evaluate",
    "load_config",
    "load_result",
    "load_run",
    "logloss",
    "parse_overrides",
    "predict",
    "resolve",
    "run",
    "to_dict",
    "to_yaml",
]
