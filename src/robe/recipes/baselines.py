"""Criteo Kaggle in the manner of the strong public baselines (BARS, Criteo_x4): what the paper's baselines are not.

Tokens seen fewer than ten times share an id, embeddings have an L2 penalty, and the learning rates are divided by ten
when the validation AUC stops rising. Two things differ from BARS: numbers are log(1 + x) rather than buckets, and rows
are drawn 72 : 18 : 10 as in the paper rather than 8 : 1 : 1.
"""

from robe.data import CriteoSpec
from robe.recipes.recipe import Recipe
from robe.train import EmbeddingConfig, ModelConfig, RunConfig, TrainConfig

COMPRESSIONS = (10, 100)  # of the filtered tables, which are 37 times smaller than the paper's

DATA = CriteoSpec("criteo-kaggle", ids="vocabulary", order="frequency", min_count=10, split="random-9-1-8-2")
MODELS = {
    "dlrm": ModelConfig("dlrm", bottom_mlp=(512, 256, 64), top_mlp=(512, 256)),
    "deepfm": ModelConfig("deepfm", mlp=(1000,) * 5, dropout=0.2, first_order="own", mlp_init_std="torch"),
    "dcnv2": ModelConfig("dcnv2", mlp=(1000,) * 5, cross_layers=3, dropout=0.2),
    "finalmlp": ModelConfig("finalmlp", mlp=(1000,) * 3, second_mlp=(800,), num_heads=50, dropout=0.2),
}


def baseline(model: str, compression: int | None) -> Recipe:
    """A model of ``MODELS``; ``compression`` None for full tables."""
    train = TrainConfig(
        optimizer="adam",
        learning_rate=0.001,
        batch_size=4096,
        epochs=100,
        early_stop_patience=2,
        plateau_factor=0.1,
        embedding_weight_decay=1e-5,
        sparse_gradients=False,  # the penalty touches every row
    )
    embedding = (
        EmbeddingConfig("full", init_std=1e-4)
        if compression is None
        else EmbeddingConfig("robe", compression=compression, block_size=16)
    )
    size = "full" if compression is None else f"robe_z16_{compression}x"
    words = "full tables" if compression is None else f"ROBE-16 at {compression}x"
    return Recipe(
        name=f"criteo_kaggle_bars_{model}_{size}",
        about=f"{model} with {words}, rare tokens together, L2, rates dropped on plateaus",
        spec=DATA,
        config=RunConfig(model=MODELS[model], embedding=embedding, train=train),
    )
