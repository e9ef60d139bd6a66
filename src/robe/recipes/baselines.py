"""Criteo Kaggle in the manner of the strong public baselines (BARS, Criteo_x4): what the paper's baselines are not.

Tokens seen fewer than ten times share an id, embeddings have an L2 penalty, and the learning rates are divided by ten
when the validation AUC stops rising. Values are of BARS' runs ``*_criteo_x4_001`` (github.com/reczoo/BARS), whose
DeepFM, DCNv2 and FinalMLP reached 0.8143, 0.8145 and 0.8146. What differs: numbers are log(1 + x) rather than buckets
with embeddings, rows are drawn 72 : 18 : 10 as in the paper rather than 8 : 1 : 1, and linear layers start as torch's.
"""

from robe.data import CriteoSpec
from robe.recipes.recipe import Recipe
from robe.train import EmbeddingConfig, ModelConfig, RunConfig, TrainConfig

COMPRESSIONS = (10, 100)  # of the filtered tables, which are 37 times smaller than the paper's

DATA = CriteoSpec("criteo-kaggle", ids="vocabulary", order="frequency", min_count=10, split="random-9-1-8-2")
MODELS = {
    # BARS has no DLRM on Criteo_x4; layers of Table 8, dropout and batch normalisation of its DLRM_criteo_x1_001.
    "dlrm": ModelConfig("dlrm", bottom_mlp=(512, 256, 64), top_mlp=(512, 256), dropout=0.2, batch_norm=True),
    # DeepFM_criteo_x4_001
    "deepfm": ModelConfig("deepfm", mlp=(1000,) * 5, dropout=0.2, first_order="own", mlp_init_std="torch"),
    # DCNv2_criteo_x4_001: "parallel"
    "dcnv2": ModelConfig("dcnv2", mlp=(1000,) * 5, cross_layers=3, dropout=0.1, batch_norm=True),
    # FinalMLP_criteo_x4_001: without gates
    "finalmlp": ModelConfig(
        "finalmlp", mlp=(1000,) * 5, second_mlp=(500,), num_heads=50, dropout=0.2, second_dropout=0.1, gates=False
    ),
}


def baseline(model: str, compression: int | None) -> Recipe:
    """A model of ``MODELS``; ``compression`` None for full tables."""
    train = TrainConfig(
        optimizer="adam",  # this and all below but the last: BARS
        learning_rate=0.001,
        batch_size=10_000,
        epochs=100,
        early_stop_patience=2,
        plateau_factor=0.1,
        embedding_weight_decay=1e-5,
        sparse_gradients=False,  # the penalty touches every row
    )
    # BARS: embeddings start as N(0, 1e-4**2); the array does too.
    embedding = (
        EmbeddingConfig("full", init_std=1e-4)
        if compression is None
        else EmbeddingConfig("robe", compression=compression, block_size=16, init_std=1e-4)
    )
    size = "full" if compression is None else f"robe_z16_{compression}x"
    words = "full tables" if compression is None else f"ROBE-16 at {compression}x"
    return Recipe(
        name=f"criteo_kaggle_bars_{model}_{size}",
        about=f"{model} with {words}, rare tokens together, L2, rates dropped on plateaus",
        spec=DATA,
        config=RunConfig(model=MODELS[model], embedding=embedding, train=train),
    )
