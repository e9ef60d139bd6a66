"""``robe compare``."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer


def compare(
    data: Annotated[Path, typer.Argument(help="Prepared data set, made by robe prepare.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the runs, the tables and the page.")],
    methods: Annotated[
        str | None, typer.Option(help="Any of full, robe, hashing, capped; commas between.", show_default="full,robe")
    ] = None,
    compression: Annotated[
        str | None, typer.Option(help="Full parameters / stored ones; commas between.", show_default="1000")
    ] = None,
    block_size: Annotated[str | None, typer.Option(help="Z of robe; commas between.", show_default="4")] = None,
    seeds: Annotated[int | None, typer.Option(help="Runs per method and size.", show_default="1")] = None,
    override: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="For all runs, as in robe train; repeat for several."),
    ] = None,
    tune: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SECTION.KEY=VALUE,VALUE",
            help="Try these values for every method and size, with one seed, and keep the best by validation AUC.",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML or JSON file, with variants of methods too: docs/compare.md.")
    ] = None,
    keep_going: Annotated[bool, typer.Option("--keep-going", help="When a run fails, note it and go on.")] = False,
    progress: Annotated[bool | None, typer.Option(help="Progress on stderr.", show_default="on a terminal")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Train several embeddings, sizes and seeds on one data set, and compare them.

    Prints a table, and writes results.csv (a line a run), summary.csv (a line a method and size), results.json,
    and index.html, a page with plots that opens without a network.

    Killed half-way, the same command goes on: finished runs are reused.

    Examples:
        robe compare data/ml --out ml --methods full,robe,hashing --compression 10,100,1000 --seeds 3

        robe compare data/ml --out z --methods robe --block-size 1,4,16 --set train.epochs=5

        robe compare data/ml --out t --tune embedding.init_std=0.001,0.01,0.05 --seeds 3
    """
    from robe.compare import compare as run_comparison
    from robe.compare import make_plan

    plan = make_plan(
        data,
        methods=_texts(methods),
        compression=_numbers("--compression", compression, float),
        block_size=_numbers("--block-size", block_size, int),
        seeds=seeds,
        overrides=override or [],
        tune=tune or [],
        config=config,
    )
    try:
        comparison = run_comparison(
            plan,
            out,
            keep_going=keep_going,
            progress=sys.stderr.isatty() if progress is None else progress,
            command=shlex.join(["robe", *sys.argv[1:]]),
        )
    except KeyboardInterrupt:
        typer.echo(f"robe: interrupted; the same command goes on with the runs in {out}", err=True)
        raise
    if json:
        typer.echo((out / "results.json").read_text(encoding="utf-8"), nl=False)
    else:
        _print(comparison, out)
    if any(record.error for record in comparison.records):
        raise typer.Exit(1)


def _print(comparison: Any, out: Path) -> None:
    from rich.console import Console

    from robe.compare import terminal_table, words
    from robe.compare.page import REMEDY, can_render

    console = Console()
    if not console.is_terminal:
        console.width = 200  # into a file or a pipe: one line a row, not folded at 80 columns
    console.print(terminal_table(comparison))
    for sentence in (*words.headline(comparison), *words.caveats(comparison)):
        if sentence:
            console.print(sentence, highlight=False, soft_wrap=True)
    console.print(f"tables: {out / 'results.csv'}, {out / 'summary.csv'}", highlight=False, soft_wrap=True)
    page = f"page: {out / 'index.html'}" if can_render() else f"for a page with plots: {REMEDY}, then run this again"
    console.print(page, highlight=False, soft_wrap=True, markup=False)


def _texts(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def _numbers(option: str, text: str | None, kind: type[int] | type[float]) -> list[Any] | None:
    parts = _texts(text)
    if parts is None:
        return None
    try:
        return [kind(part) for part in parts]
    except ValueError:
        raise typer.BadParameter(f"{option}: expected numbers with commas between, got {text!r}") from None
