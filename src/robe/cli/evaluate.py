"""``robe evaluate``."""

import json as json_module
import math
import sys
from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder made by robe train.")],
    data: Annotated[
        Path | None, typer.Option(help="Prepared data set with the same fields.", show_default="the one of the run")
    ] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    batch_size: Annotated[int, typer.Option(help="Rows at a time.")] = 16384,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Print AUC and logloss of a run's best checkpoint on a split.

    For example:

        robe evaluate runs/robe

        robe evaluate runs/robe --split validation --json

        robe evaluate runs/robe --data data/next-week
    """
    from robe.data import PreparedDataset
    from robe.train import evaluate as evaluate_split
    from robe.train import load_run

    loaded = load_run(run, device=device)
    dataset = PreparedDataset.open(data or loaded.config.data.path)
    loaded.require(dataset)
    result = evaluate_split(loaded.model, dataset, split, batch_size=batch_size, progress=sys.stderr.isatty())
    if json:
        values = {key: None if math.isnan(value) else value for key, value in result.items()}
        typer.echo(json_module.dumps({"run": str(run), "data": str(dataset.path), "split": split} | values))
    else:
        typer.echo(f"{split}: AUC {result['auc']:.6f}  logloss {result['logloss']:.6f}  rows {result['rows']:,}")
