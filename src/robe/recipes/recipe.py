"""What a recipe is, how it is made smaller, and how it is run from raw files."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from robe.data import CriteoSpec, PreparedDataset, generate_kaggle, generate_terabyte, prepare_criteo
from robe.data.criteo.columns import TERABYTE_DAYS
from robe.data.criteo.raw import RawFile
from robe.train import RunConfig, RunResult, resolve, run

if TYPE_CHECKING:
    from robe.train.folder import Resume

ROWS = {"criteo-kaggle": 45_840_617, "criteo-tb": 4_373_472_329}
SMALLEST_ARRAY = 1024
SMALLEST_TRIAL = 500  # lines: each split has some of both labels


@dataclass(frozen=True)
class Recipe:
    """A run from raw files to a result.

    Args:
        name: by which it is called.
        about: one line: the model, the embedding, and where in the paper (or elsewhere) it comes from.
        spec: what becomes of the raw files.
        config: the run; its data set is not set.
    """

    name: str
    about: str
    spec: CriteoSpec
    config: RunConfig


def scaled(recipe: Recipe, scale: float) -> Recipe:
    """The recipe for a fraction of the data: array and numbers of steps shrink with it, everything else stays.

    Args:
        recipe: of the whole data.
        scale: fraction of the rows, in (0, 1].

    Raises:
        ValueError: ``scale`` is out of range.
    """
    if not 0 < scale <= 1:
        raise ValueError(f"scale: expected a fraction of the rows in (0, 1], got {scale}")
    embedding, train = recipe.config.embedding, recipe.config.train
    if embedding.num_slots is not None:
        slots = max(SMALLEST_ARRAY, round(embedding.num_slots * scale))
        embedding = dataclasses.replace(embedding, num_slots=min(slots, embedding.num_slots))
    steps = {
        name: max(1, round(value * scale))
        for name in ("max_steps", "eval_every", "warmup_steps", "decay_start_step", "decay_steps")
        if (value := getattr(train, name))
    }
    train = dataclasses.replace(train, **steps)
    return dataclasses.replace(recipe, config=dataclasses.replace(recipe.config, embedding=embedding, train=train))


def run_recipe(
    recipe: Recipe,
    out: Path | str,
    sources: Sequence[Path | str] = (),
    *,
    data: Path | str | None = None,
    resume: Resume = "auto",
    overwrite: bool = False,
    progress: bool = False,
    rows: int | None = None,
) -> RunResult:
    """Prepares the raw files, unless that is done, and trains.

    Args:
        recipe: what to run.
        out: folder for ``run``, and for ``raw`` and ``data`` where these are made.
        sources: raw files; none to generate some.
        data: folder of the prepared data; default ``out/data``. It is made when absent, and can serve many recipes.
        resume: as in ``robe.train.run``; preparing resumes by itself.
        overwrite: replace a finished run.
        progress: show progress bars on stderr.
        rows: lines to generate without ``sources``.

    Returns:
        The result, also in ``out/run``.

    Raises:
        ValueError: the configuration does not fit together, there are neither sources nor rows nor data, or the data
            were prepared in another way or from other files than are given.
        FileExistsError: as ``robe.train.run``.
    """
    out = Path(out)
    data = out / "data" if data is None else Path(data)
    config = dataclasses.replace(recipe.config, data=dataclasses.replace(recipe.config.data, path=str(data)))
    resolve(config)  # what is wrong is said before days of preparing
    if (data / "manifest.json").exists():
        _require_prepared_by(recipe, PreparedDataset.open(data), sources, rows)
    else:
        if not sources:
            if rows is None:
                raise ValueError(
                    f"sources: expected the raw files of {recipe.spec.recipe}, got none; to try the recipe on "
                    "generated ones, give a scale (--scale 0.001)"
                )
            sources = _generate(recipe, out / "raw", rows, progress)
        prepare_criteo(sources, data, recipe.spec, progress=progress)
    return run(config, out / "run", resume=resume, overwrite=overwrite, progress=progress)


def _generate(recipe: Recipe, folder: Path, rows: int, progress: bool) -> list[Path]:
    if rows < SMALLEST_TRIAL:
        least = 1.1 * SMALLEST_TRIAL / ROWS[recipe.spec.recipe]  # enough when rounded
        raise ValueError(
            f"rows: expected at least {SMALLEST_TRIAL} lines, as every split needs some of both labels, got {rows}; "
            f"give a scale of {least:.2g} or more"
        )
    scale = min(1.0, rows / ROWS[recipe.spec.recipe])
    folder.mkdir(parents=True, exist_ok=True)
    kaggle = recipe.spec.recipe == "criteo-kaggle"
    names = ["train.txt"] if kaggle else [f"day_{day}" for day in range(TERABYTE_DAYS)]
    files = [folder / name for name in names]
    if sum(_lines(file) for file in files) == rows:
        return files
    if kaggle:
        return [generate_kaggle(files[0], rows, scale=scale, overwrite=True, progress=progress)]
    return generate_terabyte(folder, rows, scale=scale, overwrite=True, progress=progress)


def _lines(file: Path) -> int:
    """Of a file that an earlier trial may have left, whole or in part; 0 if there is none."""
    if not file.exists():
        return 0
    with file.open("rb") as stream:
        return sum(piece.count(b"\n") for piece in iter(lambda: stream.read(1 << 24), b""))


def _require_prepared_by(
    recipe: Recipe, dataset: PreparedDataset, sources: Sequence[Path | str], rows: int | None
) -> None:
    manifest = dataset.manifest
    made, wanted = manifest.spec, dataclasses.asdict(recipe.spec)
    differing = [
        f"{key}: {made.get(key)!r}, the recipe's {value!r}" for key, value in wanted.items() if made.get(key) != value
    ]
    if sources:
        read = [f"{source.file} of {source.bytes} bytes" for source in manifest.sources]
        given = [f"{file.name} of {file.bytes} bytes" for file in map(RawFile, sources)]
        if read != given:
            differing.append(f"files: {_some(read)}; now {_some(given)}")
    if rows is not None and manifest.rows_read != rows:
        differing.append(f"lines: {manifest.rows_read}, now {rows}")
    if differing:
        raise ValueError(
            f"data: {dataset.path} was prepared in another way ({'; '.join(differing)}): give another folder"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:2]) + (f", ... ({len(names)} files)" if len(names) > 2 else "")
