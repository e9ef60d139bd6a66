"""``robe train``."""

import math
import sys
from pathlib import Path
from typing import Annotated, Any

import typer


def train(
    data: Annotated[
        str | None, typer.Argument(help="Prepared data set, made by robe prepare; default: data.path of the file.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder: checkpoints, metrics, configuration.")] = ...,  # type: ignore[assignment]
    config: Annotated[Path | None, typer.Option(help="YAML or JSON file; the options below win over it.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="dlrm, dcn, autoint, deepfm, xdeepfm, fibinet, dcnv2 or finalmlp.  (model.name)", show_default="dlrm"
        ),
    ] = None,
    embedding: Annotated[
        str | None, typer.Option(help="robe, full, hashing or capped.  (embedding.kind)", show_default="robe")
    ] = None,
    compression: Annotated[
        float | None, typer.Option(help="Full parameters / stored ones.  (embedding.compression)", show_default="1000")
    ] = None,
    num_slots: Annotated[int | None, typer.Option(help="Size in parameters, instead.  (embedding.num_slots)")] = None,
    memory: Annotated[
        str | None, typer.Option(help="Size in bytes, instead, such as 64MB.  (embedding.memory)")
    ] = None,
    block_size: Annotated[
        int | None, typer.Option(help="Z, slots placed together.  (embedding.block_size)", show_default="4")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Most passes.  (train.epochs)", show_default="10")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Rows of a step.  (train.batch_size)", show_default="2048")
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="adam, sgd or adagrad.  (train.optimizer)", show_default="adam")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of all parameters.  (train.learning_rate)", show_default="0.001")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of initial values, order and hash.  (train.seed)", show_default="0")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.  (train.device)", show_default="auto")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.  (train.threads)")] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any key; repeat for several.")
    ] = None,
    resume: Annotated[
        str, typer.Option(help="With an unfinished run in the folder: auto goes on, never starts anew, must insists.")
    ] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in the folder.")] = False,
    progress: Annotated[bool | None, typer.Option(help="Progress bar on stderr.", show_default="on a terminal")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a click model on a prepared data set: DLRM, or another with --model.

    Stops when the validation AUC stops rising, and evaluates the best checkpoint on the test split, once.
    Killed half-way, the same command goes on from the last checkpoint and ends in the same bits.

    For example:

        robe train data/ml --out runs/robe --compression 1000 --block-size 4

        robe train data/ml --out runs/full --embedding full

        robe train data/ml --out runs/deepfm --model deepfm --set model.dropout=0.2 --set model.mlp=[256,256]

        robe train --config run.yaml --out runs/x --set train.eval_every=200 --set embedding.init_std=0.05
    """
    from robe.train import load_config, parse_overrides, run

    options: dict[str, Any] = {
        "data.path": data,
        "model.name": model,
        "embedding.kind": embedding,
        "embedding.compression": compression,
        "embedding.num_slots": num_slots,
        "embedding.memory": memory,
        "embedding.block_size": block_size,
        "train.epochs": epochs,
        "train.batch_size": batch_size,
        "train.optimizer": optimizer,
        "train.learning_rate": learning_rate,
        "train.seed": seed,
        "train.device": device,
        "train.threads": threads,
    }
    overrides = {key: value for key, value in options.items() if value is not None}
    overrides |= parse_overrides(override or [])
    resolved = load_config(config, overrides)
    show = sys.stderr.isatty() if progress is None else progress
    try:
        result = run(resolved, out, resume=resume, overwrite=overwrite, progress=show)  # type: ignore[arg-type]
    except KeyboardInterrupt:
        typer.echo(f"robe: interrupted; the same command goes on from the last checkpoint in {out}", err=True)
        raise
    if json:
        typer.echo((out / "result.json").read_text(encoding="utf-8"), nl=False)
    else:
        print_result(result, out)


def print_result(result: Any, out: Path) -> None:
    """Prints a run's result for a person."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"best checkpoint, after {result.best_epoch:.3g} of {result.epochs_run:.3g} epochs")
    for name in ("split", "AUC", "logloss"):
        table.add_column(name, justify="left" if name == "split" else "right")
    for split, values in result.metrics.items():
        table.add_row(split, f"{values['auc']:.5f}", f"{values['logloss']:.5f}")
    console = Console()
    console.print(table)
    sizes = result.parameters
    full = "no full tables to compare with" if sizes["full"] is None else f"{result.compression:,.4g}x compression"
    rate = "\N{EN DASH}" if math.isnan(result.samples_per_second) else f"{result.samples_per_second:,.0f}"
    console.print(
        f"embedding {sizes['embedding']:,} parameters, {result.megabytes:,.4g} MB ({full}); "
        f"network {sizes['dense']:,}; {rate} samples/s; {result.steps:,} steps",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    console.print(f"run folder: {out}", highlight=False, soft_wrap=True)
