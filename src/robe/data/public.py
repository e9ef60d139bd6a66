"""Smaller public data sets, from the files as they are distributed: Avazu, MovieLens-1M, Frappe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal

import polars as pl

from robe.data.dataset import PreparedDataset
from robe.data.format import DataError
from robe.data.spec import TableSpec
from robe.data.table import prepare_table

Ids = Literal["direct", "vocabulary"]

_AVAZU: Final = (
    *("C1", "banner_pos", "site_id", "site_domain", "site_category", "app_id", "app_domain", "app_category"),
    *("device_id", "device_ip", "device_model", "device_type", "device_conn_type"),
    *("C14", "C15", "C16", "C17", "C18", "C19", "C20", "C21"),
)
_MOVIELENS: Final = {
    "ratings.dat": ("user", "movie", "rating", "timestamp"),
    "users.dat": ("user", "gender", "age", "occupation", "zip"),
    "movies.dat": ("movie", "title", "genres"),
}
_FRAPPE: Final = ("user", "item", "daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city")


def prepare_avazu(
    source: str | Path, out: str | Path, *, ids: Ids = "direct", min_count: int = 1, seed: int = 0, **options: Any
) -> PreparedDataset:
    """Avazu's ``train.csv`` (also ``.gz``): 21 categorical columns, and hour, day of the week and weekend of ``hour``.

    Rows are drawn 8 : 1 : 1 for training, validation and testing.

    Args:
        source: the file.
        out: the folder to make.
        ids: ``direct`` or ``vocabulary``. Default ``direct``.
        min_count: tokens seen less often are unknown (``vocabulary`` only). Default 1.
        seed: of the draw. Default 0.
        options: ``overwrite`` and ``progress`` of :func:`robe.data.prepare_table`.

    Raises:
        DataError, FileNotFoundError, FileExistsError: as :func:`robe.data.prepare_table`.
    """
    day = "DATE(SUBSTR(hour, 1, 6), '%y%m%d')"
    spec = TableSpec(
        label="click",
        categorical=(*_AVAZU, "hour_of_day", "weekday", "is_weekend"),
        derive=(
            "hour_of_day = SUBSTR(hour, 7, 2)",
            f"weekday = CAST(DATE_PART('isodow', {day}) AS VARCHAR)",
            "is_weekend = CASE WHEN weekday IN ('6', '7') THEN '1' ELSE '0' END",
        ),
        validation=0.1,
        test=0.1,
        seed=seed,
        ids=ids,
        min_count=min_count,
        quote="",
    )
    return prepare_table(source, out, spec, **options)


def prepare_movielens(
    folder: str | Path, out: str | Path, *, ids: Ids = "vocabulary", seed: int = 0, **options: Any
) -> PreparedDataset:
    """MovieLens-1M's ``ratings.dat``, ``users.dat`` and ``movies.dat``; a rating of 4 or 5 is a click.

    Fields: user, movie, gender, age, occupation, zip, year of the film, and its genres as a bag. Rows are drawn
    8 : 1 : 1 for training, validation and testing.

    Args:
        folder: of the three files.
        out: the folder to make.
        ids: ``direct`` or ``vocabulary``. Default ``vocabulary``.
        seed: of the draw. Default 0.
        options: ``overwrite`` and ``progress`` of :func:`robe.data.prepare_table`.

    Raises:
        FileNotFoundError: a file is missing.
        DataError: a line has the wrong number of columns, or a user or a film is not known.
    """
    missing = [file for file in _MOVIELENS if not (Path(folder) / file).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder}: no {missing[0]} in it; expected {', '.join(_MOVIELENS)}")
    ratings, users, movies = (_double_colons(Path(folder) / file, names) for file, names in _MOVIELENS.items())
    joined = ratings.join(users, on="user", how="left", maintain_order="left")
    joined = joined.join(movies, on="movie", how="left", maintain_order="left")
    for name, key in (("gender", "user"), ("title", "movie")):
        lost = joined.filter(pl.col(name).is_null())
        if len(lost):
            raise DataError(f"ratings.dat: {key} {lost[key][0]} is not in {key}s.dat; are the files of one release?")
    joined = joined.with_columns(
        rating=pl.col("rating").cast(pl.Int64),
        year=pl.col("title").str.extract(r"\((\d{4})\)\s*$"),
    )
    spec = TableSpec(
        label="rating >= 4",
        categorical=("user", "movie", "gender", "age", "occupation", "zip", "year"),
        multi=("genres:|",),
        validation=0.1,
        test=0.1,
        seed=seed,
        ids=ids,
    )
    with TemporaryDirectory() as temporary:
        file = Path(temporary) / "movielens.parquet"
        joined.write_parquet(file)
        return prepare_table(file, out, spec, **options)


def prepare_frappe(folder: str | Path, out: str | Path, *, ids: Ids = "vocabulary", **options: Any) -> PreparedDataset:
    """Frappe in the libfm files of the FM papers: ``frappe.train.libfm`` and so on, or ``train.libfm``.

    A line is a label, 1 or -1 (or 0), and ten ``index:1`` in the order user, item, daytime, ...: a field each.

    Args:
        folder: of the three files.
        out: the folder to make.
        ids: ``direct`` or ``vocabulary``. Default ``vocabulary``.
        options: ``overwrite`` and ``progress`` of :func:`robe.data.prepare_table`.

    Raises:
        FileNotFoundError: a file is missing.
        DataError: a line is not of this form.
    """
    spec = TableSpec(label="label", categorical=_FRAPPE, ids=ids)
    with TemporaryDirectory() as temporary:
        files = {}
        for split in ("train", "validation", "test"):
            files[split] = Path(temporary) / f"frappe_{split}.parquet"
            _libfm(_found(Path(folder), split)).write_parquet(files[split])
        return prepare_table(files["train"], out, spec, validation=files["validation"], test=files["test"], **options)


def _double_colons(file: Path, names: Sequence[str]) -> pl.DataFrame:
    # Titles have letters of Latin-1, and colons, but no double ones.
    lines = file.read_text(encoding="latin-1").splitlines()
    rows = [line.split("::") for line in lines]
    for number, row in enumerate(rows, 1):
        if len(row) != len(names):
            raise DataError(f"{file}: line {number}: expected {len(names)} columns joined by ::, got {len(row)}")
    return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row")


def _found(folder: Path, split: str) -> Path:
    for name in (f"frappe.{split}.libfm", f"{split}.libfm"):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{folder}: neither frappe.{split}.libfm nor {split}.libfm in it")


def _libfm(file: Path) -> pl.DataFrame:
    rows = []
    for number, line in enumerate(file.read_text(encoding="ascii").splitlines(), 1):
        label, *parts = line.split()
        tokens = [part.removesuffix(":1") for part in parts]
        if label not in ("1", "-1", "0") or len(parts) != len(_FRAPPE) or not all(map(str.isdecimal, tokens)):
            raise DataError(
                f"{file}: line {number}: expected 1 or -1 and {len(_FRAPPE)} times index:1, got {line[:80]!r}"
            )
        rows.append([int(label == "1"), *tokens])
    return pl.DataFrame(rows, schema={"label": pl.Int64} | dict.fromkeys(_FRAPPE, pl.String), orient="row")
