"""``robe recipe list | show | run``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Runs of the ROBE paper on Criteo, and strong baselines, by name.")
Name = Annotated[str, typer.Argument(metavar="NAME", help="Of robe recipe list.")]


@app.command("list")
def list_() -> None:
    """List the recipes.

    Names are data set, model, embedding: criteo_kaggle_dlrm_full, criteo_kaggle_dlrm_robe_z16_1000x.
    """
    from robe.recipes import RECIPES

    width = max(map(len, RECIPES))
    for name, recipe in RECIPES.items():
        typer.echo(f"{name:{width}}  {recipe.about}")


@app.command()
def show(name: Name) -> None:
    """Show what a recipe does with raw files, and its configuration as robe train reads it.

    The comments in the source (robe/recipes) say where each value comes from.
    """
    import dataclasses

    import yaml

    from robe.recipes import get_recipe
    from robe.train import to_yaml

    recipe = get_recipe(name)
    keys = dataclasses.asdict(recipe.spec)
    if recipe.spec.split != "time":  # these two are its alone
        del keys["validation"], keys["test"]
    spec = yaml.safe_dump(keys, sort_keys=False, default_flow_style=None).splitlines()
    typer.echo("\n".join([f"# {recipe.name}: {recipe.about}", "# raw files:", *(f"#   {line}" for line in spec)]))
    typer.echo(to_yaml(recipe.config), nl=False)


@app.command()
def run(
    name: Name,
    sources: Annotated[
        list[Path] | None, typer.Argument(metavar="[RAW]...", help="Criteo's raw files: train.txt, or day_0 day_1 ...")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run, and of data that is made.")] = ...,  # type: ignore[assignment]
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of the prepared data; made when absent.", show_default="OUT/data"),
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option(help="Try it on generated lines, this fraction of the real number; array and steps shrink too."),
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any key of the configuration.")
    ] = None,
    resume: Annotated[str, typer.Option(help="As in robe train: auto, never, must.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in OUT.")] = False,
    progress: Annotated[bool | None, typer.Option(help="Progress bars.", show_default="on a terminal")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Prepare the raw files and train, as the recipe says.

    On the real files:

        robe recipe run criteo_kaggle_dlrm_robe_z16_1000x train.txt --out runs/z16 --data data/kaggle

    A trial on generated lines, which takes a minute:

        robe recipe run criteo_kaggle_dlrm_robe_z16_1000x --scale 0.001 --out /tmp/trial
    """
    import dataclasses

    from robe.cli.train import print_result
    from robe.recipes import ROWS, get_recipe, run_recipe, scaled
    from robe.train import load_config

    recipe = get_recipe(name)
    rows = None
    if scale is not None:
        if sources:
            raise ValueError("--scale: for generated lines; a recipe takes all of the raw files. Give one of the two")
        recipe, rows = scaled(recipe, scale), max(1, round(ROWS[recipe.spec.recipe] * scale))
    config = load_config(recipe.config, override or [])
    show = sys.stderr.isatty() if progress is None else progress
    result = run_recipe(
        dataclasses.replace(recipe, config=config), out, sources or (), data=data, rows=rows, resume=resume,  # type: ignore[arg-type]
        overwrite=overwrite, progress=show,
    )  # fmt: skip
    if json:
        typer.echo((out / "run" / "result.json").read_text(encoding="utf-8"), nl=False)
    else:
        print_result(result, out / "run")
