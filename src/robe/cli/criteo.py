"""``robe prepare criteo-kaggle`` and ``robe prepare criteo-tb``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from robe.cli.prepare import Json, Overwrite, app, summary

Ids = Annotated[
    str,
    typer.Option(help="`direct`: the 32-bit token is the id, one pass. `vocabulary`: numbers, as full tables need."),
]
Order = Annotated[str, typer.Option(help="Of vocabulary numbers: `appearance` (DLRM), `frequency`, `value` (DeepCTR).")]
MinCount = Annotated[int, typer.Option(help="Rarer tokens share id 0 (vocabulary only).")]
VocabularyFrom = Annotated[str, typer.Option(help="Lines whose tokens are counted: `all` or `train`.")]
MaxIndRange = Annotated[int | None, typer.Option(help="Take tokens modulo this first; MLPerf: 40000000.")]
Numeric = Annotated[str, typer.Option(help="`log1p`: log(1 + max(x, 0)). `minmax`: to [0, 1] (DeepCTR). `none`.")]
Validation = Annotated[float, typer.Option(help="Fraction of lines for validation (split `time` only).")]
Test = Annotated[float, typer.Option(help="Fraction of lines for testing (split `time` only).")]
MaxBadRows = Annotated[
    float, typer.Option(help="Malformed lines to put aside before it is an error: a fraction if below 1, else a count.")
]
Workers = Annotated[int | None, typer.Option(help="Threads.", show_default="processors + 1")]
Part = Annotated[
    str | None, typer.Option(metavar="I/N", help="Do the I-th of N shares; then the same command without it finishes.")
]
Ray = Annotated[str | None, typer.Option(metavar="ADDRESS", help="Work on a Ray cluster; `local` starts one here.")]


@app.command("criteo-kaggle")
def kaggle(
    source: Annotated[str, typer.Argument(metavar="TRAIN.TXT", help="train.txt, also .gz, or a URL.")],
    out: Annotated[Path, typer.Argument(help="The folder to make.")],
    split: Annotated[
        str, typer.Option(help="`dlrm-kaggle` (seven days), `random-9-1-8-2` (DeepCTR), `time` or `none`.")
    ] = "dlrm-kaggle",
    ids: Ids = "direct",
    order: Order = "appearance",
    min_count: MinCount = 1,
    vocabulary_from: VocabularyFrom = "all",
    max_ind_range: MaxIndRange = None,
    numeric: Numeric = "log1p",
    validation: Validation = 0.1,
    test: Test = 0.1,
    max_bad_rows: MaxBadRows = 0.01,
    workers: Workers = None,
    part: Part = None,
    ray: Ray = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Prepare the Criteo Kaggle display advertising file, by the recipe of DLRM.

    Killed half-way, the same command goes on. Malformed lines are put aside in OUT/quarantine.tsv, and counted.

    Example:
        robe prepare criteo-kaggle train.txt data/kaggle

        robe train data/kaggle --out runs/kaggle --memory 2MB --block-size 8
    """
    options = locals()
    _prepare("criteo-kaggle", [source], **{key: value for key, value in options.items() if key != "source"})


@app.command("criteo-tb")
def terabyte(
    sources: Annotated[
        list[str], typer.Argument(metavar="DAY... OUT", help="day_0 to day_23 in order, also .gz; last, the folder.")
    ],
    split: Annotated[
        str, typer.Option(help="`mlperf-tb` (half of the last file is tested on), `time` or `none`.")
    ] = "mlperf-tb",
    ids: Ids = "direct",
    order: Order = "appearance",
    min_count: MinCount = 1,
    vocabulary_from: VocabularyFrom = "all",
    max_ind_range: MaxIndRange = None,
    numeric: Numeric = "log1p",
    validation: Validation = 0.1,
    test: Test = 0.1,
    max_bad_rows: MaxBadRows = 0.01,
    workers: Workers = None,
    part: Part = None,
    ray: Ray = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Prepare the Criteo Terabyte click logs, files in the order given.

    Example:
        robe prepare criteo-tb day_{0..23}.gz data/tb --max-ind-range 40000000
    """
    options = locals()
    if len(sources) < 2:
        raise typer.BadParameter("expected at least one day and the folder to make", param_hint="DAY... OUT")
    given = {key: value for key, value in options.items() if key != "sources"}
    _prepare("criteo-tb", sources[:-1], out=Path(sources[-1]), **given)


def _prepare(
    recipe: str,
    sources: list[str],
    *,
    out: Path,
    workers: int | None,
    part: str | None,
    ray: str | None,
    overwrite: bool,
    as_json: bool,
    numeric: str,
    **spec: Any,
) -> None:
    from robe.data import CriteoSpec, prepare_criteo

    dataset = prepare_criteo(
        sources,
        out,
        CriteoSpec(recipe, numeric_transform=numeric, **spec),  # type: ignore[arg-type]  # the spec checks them
        workers=workers,
        part=_part(part),
        ray=ray,
        overwrite=overwrite,
        progress=sys.stderr.isatty(),
    )
    if dataset is None:
        typer.echo(f"part {part} is done; the same command without --part finishes, when all are", err=True)
    else:
        summary(dataset, as_json)


def _part(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, slash, second = text.partition("/")
    if not (slash and first.isdecimal() and second.isdecimal()):
        raise typer.BadParameter(f"expected I/N such as 1/8, got {text!r}", param_hint="--part")
    return int(first), int(second)
