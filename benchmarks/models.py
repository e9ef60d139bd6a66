"""Training throughput of the models, against DeepCTR-Torch's own training loop on the same data.

    pip install deepctr-torch==0.3.0 requests
    python benchmarks/models.py --folder /tmp/models --json result.json

Generated clicks in the shape of Criteo Kaggle: 13 numeric features and 26 fields whose tables have 1.09 million rows
together, what is left of the real ones where tokens seen fewer than ten times share a row (the most usual preparation,
BARS' Criteo_x4); ``--scale 1`` has the 33.8 million rows of the whole. D = 16, B = 2048, Adam, the networks of Table 8
(AutoInt with heads of 8, all that DeepCTR-Torch 0.3.0 has). Both train for as many steps with their own loops, data
loading included: DeepCTR-Torch's ``fit`` on full tables, ``robe.train.run`` on full tables and on ROBE at 1000x. The
models are the same: they have equally many parameters, which is checked here, and tests compare their logits and
gradients.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robe.data import PreparedDataset, SyntheticSpec, generate
from robe.train import EmbeddingConfig, ModelConfig, RunConfig, TrainConfig, build_model, resolve, run
from timing import machine, report, summary

BATCH, DIM = 2048, 16
OURS = {
    "dcn": ModelConfig("dcn"),
    "autoint": ModelConfig("autoint", attention_dim=DIM // 2),
    "deepfm": ModelConfig("deepfm"),
    "xdeepfm": ModelConfig("xdeepfm"),
    "fibinet": ModelConfig("fibinet"),
}


def deepctr() -> dict[str, Callable[[list[Any]], torch.nn.Module]]:
    """Their models in the shape of Table 8; importing them asks for the newest version on the network, here not."""
    start, threading.Thread.start = threading.Thread.start, lambda thread: None  # type: ignore[method-assign]
    try:
        from deepctr_torch import models
    finally:
        threading.Thread.start = start  # type: ignore[method-assign]
    deep = {"dnn_hidden_units": (400,) * 3}
    return {
        "dcn": lambda c: models.DCN(c, c, cross_num=1, dnn_hidden_units=(1024,) * 4),
        "autoint": lambda c: models.AutoInt(c, c, l2_reg_embedding=0, **deep),
        "deepfm": lambda c: models.DeepFM(c, c, dnn_dropout=0.5, **deep),
        "xdeepfm": lambda c: models.xDeepFM(c, c, dnn_dropout=0.5, cin_layer_size=(200,) * 3, **deep),
        "fibinet": lambda c: models.FiBiNET(c, c, dnn_dropout=0.5, **deep),
    }


def theirs_trainer(
    make: Callable[[list[Any]], torch.nn.Module], dataset: PreparedDataset, steps: int
) -> tuple[Any, Callable[[], float]]:
    from deepctr_torch.inputs import DenseFeat, SparseFeat

    sparse = [SparseFeat(f.name, f.num_embeddings, embedding_dim=DIM) for f in dataset.fields]
    columns = [*sparse, *(DenseFeat(name, 1) for name in dataset.dense_names)]
    model = make(columns)
    model.compile("adam", "binary_crossentropy")
    part = dataset.split("train").columns(0, steps * BATCH)
    x = {f.name: part.ids[:, i] for i, f in enumerate(dataset.fields)}
    x |= {name: part.dense[:, i] for i, name in enumerate(dataset.dense_names)}

    def train() -> float:
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):  # which device it is on, every time
            model.fit(x, np.asarray(part.label), batch_size=BATCH, epochs=1, verbose=0)
        return (time.perf_counter() - start) / steps

    return model, train


def ours_trainer(
    model: ModelConfig, kind: str, dataset: PreparedDataset, steps: int
) -> tuple[RunConfig, Callable[[], float]]:
    embedding = EmbeddingConfig("full") if kind == "full" else EmbeddingConfig("robe", compression=1000, block_size=16)
    model = dataclasses.replace(model, embedding_dim=DIM, first_order="own")
    train = TrainConfig(max_steps=steps + 1, batch_size=BATCH, log_every=steps, early_stop_patience=None)
    config = RunConfig(model=model, embedding=embedding, train=train)
    config = resolve(dataclasses.replace(config, data=dataclasses.replace(config.data, path=str(dataset.path))))

    def seconds() -> float:
        with tempfile.TemporaryDirectory() as folder:  # the first step, which pays for imports, is not counted
            return BATCH / run(config, Path(folder) / "run").samples_per_second

    return config, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(OURS), metavar="MODEL", help=f"of {', '.join(OURS)}")
    parser.add_argument("--folder", type=Path, required=True, help="for the data; kept")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--scale", type=float, default=0.0323, help="of the vocabularies, against Criteo's")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    folder = options.folder / f"rows-{options.rows}-scale-{options.scale:g}"
    if not folder.exists():
        generate(SyntheticSpec(options.rows, scale=options.scale), folder)
    dataset = PreparedDataset.open(folder)
    facts = machine("wall") | {"table_rows": sum(f.num_embeddings or 0 for f in dataset.fields)}
    records: list[dict[str, Any]] = []
    peers = deepctr()
    for name in options.models:
        peer, peer_trainer = theirs_trainer(peers[name], dataset, options.steps)
        full, full_trainer = ours_trainer(OURS[name], "full", dataset, options.steps)
        _, robe_trainer = ours_trainer(OURS[name], "robe", dataset, options.steps)
        count = sum(p.numel() for p in build_model(full, dataset).parameters())
        theirs = sum(p.numel() for p in peer.parameters())
        assert count == theirs, f"{name}: not the same model: {count} parameters against {theirs}"
        trainers = {"DeepCTR-Torch, full tables": peer_trainer, "full tables": full_trainer, "robe 1000x": robe_trainer}
        seconds: dict[str, list[float]] = {what: [] for what in trainers}
        for i in range(options.rounds + 1):
            for what, train in trainers.items():
                took = train()
                if i > 0:  # the first round warms up
                    seconds[what].append(took)
        where = {"case": name, "batch": BATCH, "parameters": count}
        records += summary(seconds, "DeepCTR-Torch, full tables", where)
        medians = {what: BATCH / statistics.median(values) for what, values in seconds.items()}
        print(name, {what: f"{rate:,.0f} samples/s" for what, rate in medians.items()}, flush=True)
    report(records, facts, options.json)


if __name__ == "__main__":
    main()
