"""``robe prepare avazu | movielens | frappe``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from robe.cli.prepare import Json, Overwrite, app, summary

Ids = Annotated[str, typer.Option(help="`direct`: a hash of the token, no vocabulary. `vocabulary`: numbers.")]
Seed = Annotated[int, typer.Option(help="Seed of the draw of validation and test rows.")]
Out = Annotated[Path, typer.Argument(help="The folder to make.")]


@app.command()
def avazu(
    source: Annotated[Path, typer.Argument(metavar="TRAIN.CSV", help="Avazu's train.csv, also .gz.")],
    out: Out,
    ids: Ids = "direct",
    min_count: Annotated[int, typer.Option(help="Rarer tokens are unknown (vocabulary only).")] = 1,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Prepare Avazu: 21 columns, with hour, weekday and weekend of its time; rows drawn 8 : 1 : 1."""
    from robe.data.public import prepare_avazu

    options = {"min_count": min_count, "seed": seed, "overwrite": overwrite, "progress": sys.stderr.isatty()}
    dataset = prepare_avazu(source, out, ids=ids, **options)  # type: ignore[arg-type]
    summary(dataset, as_json)


@app.command()
def movielens(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of ratings.dat, users.dat and movies.dat.")],
    out: Out,
    ids: Ids = "vocabulary",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Prepare MovieLens-1M: seven fields and the genres as a bag; a rating of 4 or 5 is a click; drawn 8 : 1 : 1."""
    from robe.data.public import prepare_movielens

    dataset = prepare_movielens(folder, out, ids=ids, seed=seed, overwrite=overwrite, progress=sys.stderr.isatty())  # type: ignore[arg-type]
    summary(dataset, as_json)


@app.command()
def frappe(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of frappe.train.libfm, .validation. and .test.")],
    out: Out,
    ids: Ids = "vocabulary",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Prepare Frappe from its libfm files: ten fields, splits as given."""
    from robe.data.public import prepare_frappe

    dataset = prepare_frappe(folder, out, ids=ids, overwrite=overwrite, progress=sys.stderr.isatty())  # type: ignore[arg-type]
    summary(dataset, as_json)
