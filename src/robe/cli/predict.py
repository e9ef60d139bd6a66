"""``robe predict``."""

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from robe.data import PreparedDataset
    from robe.train import LoadedRun

SUFFIXES = (".csv", ".parquet")


def predict(
    run: Annotated[Path, typer.Argument(help="Run folder made by robe train.")],
    source: Annotated[
        Path,
        typer.Argument(
            help="Raw table with the columns of the training data, or a raw Criteo file, or a prepared data set."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write, .csv or .parquet.")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Prepared data set of the run, whose vocabulary encodes a raw table.", show_default="its path"
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Split of a prepared data set.")] = "test",
    batch_size: Annotated[int, typer.Option(help="Rows at a time.")] = 16384,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> None:
    """Write the click probability of every row, with a run's best checkpoint.

    The file has the columns row (1 for the first) and probability, one line for each row, in order. Raw rows are
    encoded as the data set of the run was, and need no label (of Criteo's, Kaggle's test.txt has none); a malformed row
    is an error that names its line, so that no row goes missing.

    For example:

        robe predict runs/robe new.csv -o predictions.csv

        robe predict runs/robe data/ml --split validation -o validation.parquet
    """
    from robe.data import PreparedDataset, encode_criteo, encode_table
    from robe.train import load_run

    if out.suffix not in SUFFIXES:
        raise typer.BadParameter(f"expected a file named .csv or .parquet, got {out.name!r}", param_hint="--out")
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} exists; name another file, or replace it with --overwrite")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"{out.parent}: no such folder to write {out.name} into")
    loaded = load_run(run, device=device)
    if source.is_dir():
        dataset = PreparedDataset.open(source)
        loaded.require(dataset)
        rows = _write(loaded, dataset, split, batch_size, out)
    else:
        like = PreparedDataset.open(data or loaded.config.data.path)
        loaded.require(like)
        with tempfile.TemporaryDirectory(prefix="robe-") as folder:
            encode = encode_criteo if like.manifest.kind == "criteo" else encode_table
            encoded = encode(source, like, Path(folder) / "encoded", progress=sys.stderr.isatty())
            rows = _write(loaded, encoded, "predict", batch_size, out)
    typer.echo(f"{rows:,} rows written to {out}")


def _write(loaded: "LoadedRun", dataset: "PreparedDataset", split: str, batch_size: int, out: Path) -> int:
    import polars as pl

    from robe.train import predict as predict_split

    probability = predict_split(loaded.model, dataset, split, batch_size=batch_size, progress=sys.stderr.isatty())
    frame = pl.DataFrame({"row": range(1, len(probability) + 1), "probability": probability.numpy()})
    partial = out.with_name(f".{out.name}.partial")
    try:
        if out.suffix == ".parquet":
            frame.write_parquet(partial)
        else:
            frame.write_csv(partial)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return len(frame)
