"""``robe data``: raw files to try things with, and what is in a prepared data set."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Generate raw files; check and count prepared data sets.", no_args_is_help=True, rich_markup_mode="markdown"
)
generate = typer.Typer(help="Generate raw files in the exact format of public data sets.", no_args_is_help=True)
app.add_typer(generate, name="generate")

Rows = Annotated[int, typer.Option(help="Lines, of all files together.")]
Scale = Annotated[float, typer.Option(help="Factor on the 26 cardinalities of Criteo Kaggle.")]
Seed = Annotated[int, typer.Option(help="Seed of everything.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Data = Annotated[Path, typer.Argument(help="Prepared data set.")]


@generate.command("criteo-kaggle")
def generate_kaggle(
    out: Annotated[Path, typer.Argument(help="The file to make; compressed if its name ends in .gz.")],
    rows: Rows,
    scale: Scale = 1.0,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Write a file like Criteo Kaggle's train.txt, with a planted click model.

    Example:
        robe data generate criteo-kaggle train.txt --rows 1000000
    """
    from robe.data import generate_kaggle

    generate_kaggle(out, rows, scale=scale, seed=seed, overwrite=overwrite, progress=sys.stderr.isatty())
    typer.echo(f"{out}: {rows:,} lines, {out.stat().st_size:,} bytes")


@generate.command("criteo-tb")
def generate_terabyte(
    out: Annotated[Path, typer.Argument(help="The folder for day_0 and so on.")],
    rows: Rows,
    days: Annotated[int, typer.Option(help="Files.")] = 24,
    compress: Annotated[bool, typer.Option("--gzip", help="Write day_0.gz and so on.")] = False,
    scale: Scale = 1.0,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Write files like Criteo Terabyte's day_0 to day_23, with a planted click model."""
    from robe.data import generate_terabyte

    files = generate_terabyte(
        out, rows, days=days, compress=compress, scale=scale, seed=seed, overwrite=overwrite,
        progress=sys.stderr.isatty(),
    )  # fmt: skip
    total = sum(file.stat().st_size for file in files)
    typer.echo(f"{files[0]} to {files[-1].name}: {rows:,} lines, {total:,} bytes")


@app.command()
def verify(data: Data, as_json: Json = False) -> None:
    """Check a prepared data set: digests, values, row counts; for Criteo Kaggle also the paper's 26 token counts.

    Exits with 1 if a check fails.
    """
    from robe.data.verify import verify

    checks = verify(data, progress=sys.stderr.isatty())
    if as_json:
        typer.echo(json.dumps({"path": str(data), "checks": [dataclasses.asdict(check) for check in checks]}))
    else:
        for check in checks:
            mark = {True: "ok", False: "FAILED", None: "-"}[check.passed]
            typer.echo(f"{mark:6}  {check.what}: {check.found}")
    if any(check.passed is False for check in checks):
        raise typer.Exit(1)


@app.command()
def stats(
    data: Data,
    plots: Annotated[Path | None, typer.Option(help="Folder for SVG plots.")] = None,
    as_json: Json = False,
) -> None:
    """Count a prepared data set: tokens and their frequencies, label rate, drift from day to day."""
    from robe.data.stats import save_plots, stats

    found = stats(data, progress=sys.stderr.isatty())
    files = save_plots(found, plots) if plots else []
    if as_json:
        typer.echo(json.dumps({"path": str(data), **dataclasses.asdict(found)}))
        return
    from rich.console import Console
    from rich.table import Table

    fields = Table("field", title=str(data), title_justify="left")
    last = found.periods[-1] if found.periods else None
    for name in ("ids", "once", "top 1", "top 100", "top 10,000", "new in the last period"):
        fields.add_column(name, justify="right")
    for number, field in enumerate(found.fields):
        coverage = dict(field.coverage)
        tops = [f"{coverage.get(rank, 1.0):.1%}" for rank in (1, 100, 10_000)]
        new = f"{last.unseen[number]:.1%}" if last else ""
        fields.add_row(field.name, f"{field.distinct:,}", f"{field.once:,}", *tops, new)
    console = Console()
    console.print(fields)
    days = Table("period", "rows", "label rate", "new ids, mean of the fields")
    for number, period in enumerate(found.periods, 1):
        share = sum(period.unseen) / max(len(period.unseen), 1)
        days.add_row(str(number), f"{period.rows:,}", f"{period.label_rate:.4f}", f"{share:.1%}")
    console.print(days)
    for file in files:
        typer.echo(str(file))
