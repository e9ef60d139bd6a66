"""``robe prepare``: raw tables, or generated data, to a prepared data set."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:  # robe.data imports torch, which `--help` need not wait for
    from robe.data import PreparedDataset

app = typer.Typer(
    help="Make a prepared data set, the folder that `robe train` and `robe compare` read.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the data set OUT, once the new one is complete.")]
Json = Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")]


@app.command()
def table(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCE... OUT", help="CSV, TSV (also .gz, .zst, .bz2) or Parquet files; last, the folder to make."
        ),
    ],
    label: Annotated[
        str, typer.Option(help="SQL expression that gives 0 or 1: `clicked`, `rating >= 4`, `action = 'buy'`.")
    ],
    categorical: Annotated[
        list[str] | None,
        typer.Option("--categorical", "-c", help="Columns that become one id each: `user,item`, or repeated."),
    ] = None,
    numeric: Annotated[
        list[str] | None, typer.Option("--numeric", "-n", help="Columns that become dense features; missing is 0.")
    ] = None,
    multi: Annotated[
        list[str] | None, typer.Option(help="Multi-valued column, colon, separator: `genres:|`; repeat for more.")
    ] = None,
    cross: Annotated[
        list[str] | None, typer.Option(help="Tuple of columns as one token, `user*genres`; repeated or with commas.")
    ] = None,
    derive: Annotated[
        list[str] | None, typer.Option(help="New column by SQL, `zip3 = SUBSTR(zip, 1, 3)`; repeat for more.")
    ] = None,
    split_column: Annotated[str | None, typer.Option(help="Column whose value decides the split.")] = None,
    test_values: Annotated[str | None, typer.Option(help="Its values for the test split: `4`, or `3,4`.")] = None,
    validation_values: Annotated[str | None, typer.Option(help="Its values for the validation split.")] = None,
    validation: Annotated[float, typer.Option(help="Fraction of the other rows, drawn for validation.")] = 0.0,
    test: Annotated[float, typer.Option(help="Fraction of the other rows, drawn for testing.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of that draw.")] = 0,
    validation_file: Annotated[Path | None, typer.Option(help="File of validation rows.")] = None,
    test_file: Annotated[Path | None, typer.Option(help="File of test rows.")] = None,
    ids: Annotated[
        str,
        typer.Option(
            help="`direct`: 64-bit hash of the token, no vocabulary (full tables need one). `vocabulary`: numbers by "
            "first appearance, 0 unknown. `raw`: integer columns that are ids already."
        ),
    ] = "direct",
    min_count: Annotated[int, typer.Option(help="Rarer tokens are unknown (vocabulary only).")] = 1,
    vocabulary_from: Annotated[str, typer.Option(help="Rows that make the vocabulary: `all` or `train`.")] = "all",
    numeric_transform: Annotated[str, typer.Option(help="`none`, or `log1p`: log(1 + max(x, 0)).")] = "none",
    max_bad_rows: Annotated[
        float,
        typer.Option(help="Malformed rows to put aside before it is an error: a fraction if below 1, else a count."),
    ] = 0.01,
    separator: Annotated[
        str | None, typer.Option(help="Between CSV columns. Default: by suffix; `\\t` is a tab.")
    ] = None,
    quote: Annotated[str, typer.Option(help="Around CSV values that contain the separator; empty for none.")] = '"',
    columns: Annotated[
        str | None, typer.Option(help="Names of the columns of a CSV without a header line: `label,user,item`.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Prepare CSV, TSV or Parquet files.

    Malformed rows (wrong number of columns, a number that is none, a label other than 0 and 1, bytes that are not
    UTF-8) are put aside in OUT/quarantine.tsv, with line number and reason, and counted.

    Example: the ratings of MovieLens, genres as a bag, one crossed feature, fold 4 to test on

        robe prepare table ratings.csv data/ml --label "rating >= 4" -c user,movie,zip --multi "genres:|"
        --cross "user*genres" --split-column fold --test-values 4 --validation 0.1 --ids vocabulary
    """
    if len(sources) < 2:
        raise typer.BadParameter("expected at least one source and the folder to make", param_hint="SOURCE... OUT")
    from robe.data import TableSpec, prepare_table

    values = [("test", value) for value in _names([test_values])]
    values += [("validation", value) for value in _names([validation_values])]
    spec = TableSpec(
        label=label,
        categorical=_names(categorical),
        numeric=_names(numeric),
        multi=tuple(multi or ()),
        crosses=_names(cross),
        derive=tuple(derive or ()),
        split_column=split_column,
        split_values=tuple(f"{split}={value}" for split, value in values),
        validation=validation,
        test=test,
        seed=seed,
        ids=ids,  # type: ignore[arg-type]  # the spec checks it
        min_count=min_count,
        vocabulary_from=vocabulary_from,  # type: ignore[arg-type]
        numeric_transform=numeric_transform,  # type: ignore[arg-type]
        max_bad_rows=max_bad_rows,
        separator="\t" if separator == "\\t" else separator,
        quote=quote,
        columns=_names([columns]),
    )
    dataset = prepare_table(
        sources[:-1],
        sources[-1],
        spec,
        validation=validation_file,
        test=test_file,
        overwrite=overwrite,
        progress=sys.stderr.isatty(),
    )
    summary(dataset, as_json)


@app.command()
def synthetic(
    out: Annotated[Path, typer.Argument(help="The folder to make.")],
    rows: Annotated[int, typer.Option(help="Rows of all splits together.")],
    scale: Annotated[
        float, typer.Option(help="Factor on the 26 cardinalities of Criteo Kaggle, which sum to 33.8 million.")
    ] = 1.0,
    min_cardinality: Annotated[int, typer.Option(help="Scaling leaves no field smaller than this.")] = 100,
    num_dense: Annotated[int, typer.Option(help="Numeric features.")] = 13,
    zipf: Annotated[float, typer.Option(help="Exponent of the token frequencies.")] = 1.1,
    rank: Annotated[int, typer.Option(help="Rank of the planted interactions.")] = 4,
    signal: Annotated[float, typer.Option(help="Standard deviation of the true logit; decides the best AUC.")] = 1.35,
    click_rate: Annotated[float, typer.Option(help="Mean of the label.")] = 0.25,
    validation: Annotated[float, typer.Option(help="Fraction of rows for validation.")] = 0.1,
    test: Annotated[float, typer.Option(help="Fraction of rows for testing.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Generate data shaped like Criteo's, with a planted click model, so that the best reachable AUC is known.

    Example: 600,000 rows over 338,000 tokens

        robe prepare synthetic data/synthetic --rows 600000 --scale 0.01
    """
    from robe.data import SyntheticSpec, generate

    spec = SyntheticSpec(
        rows=rows,
        scale=scale,
        min_cardinality=min_cardinality,
        num_dense=num_dense,
        zipf=zipf,
        rank=rank,
        signal=signal,
        click_rate=click_rate,
        validation=validation,
        test=test,
        seed=seed,
    )
    dataset = generate(spec, out, overwrite=overwrite, progress=sys.stderr.isatty())
    summary(dataset, as_json)


def _names(values: Sequence[str | None] | None) -> tuple[str, ...]:
    return tuple(part.strip() for value in values or () if value for part in value.split(",") if part.strip())


def summary(dataset: PreparedDataset, as_json: bool) -> None:
    """Prints what was made."""
    manifest = dataset.manifest
    if as_json:
        content = manifest.model_dump(mode="json", exclude={"spec"})
        typer.echo(json.dumps({"path": str(dataset.path), "digest": dataset.digest, **content}))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    splits = Table("split", "rows", "label rate", title=str(dataset.path), title_justify="left")
    planted = any(info.best_auc is not None for info in manifest.splits.values())  # known for generated data alone
    if planted:
        splits.add_column("best AUC")
    for name, info in manifest.splits.items():
        splits.add_row(name, f"{info.rows:,}", _number(info.label_rate), *([_number(info.best_auc)] if planted else []))
    console.print(splits)
    multi = sum(field.multi for field in dataset.fields)
    counted = [field.num_embeddings for field in dataset.fields if field.num_embeddings is not None]
    tokens = f"{sum(counted):,} rows of tables" if counted else "any int64 id, no vocabulary"
    console.print(
        f"{len(dataset.fields)} fields ({multi} multi-valued), {tokens}; {dataset.num_dense} numeric features"
    )
    if manifest.kind != "synthetic":
        aside = f", in {dataset.path / 'quarantine.tsv'}" if manifest.rows_quarantined else ""
        console.print(
            f"{manifest.rows_read:,} rows read, {manifest.rows_quarantined:,} malformed{aside}", soft_wrap=True
        )
    missing = sum(manifest.missing_numeric.values())
    if missing:
        console.print(f"{missing:,} missing numbers, taken as 0")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
