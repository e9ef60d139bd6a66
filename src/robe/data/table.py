"""Preparing a raw table."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl
from pydantic import TypeAdapter

from robe.data import tokens as tk
from robe.data.clean import Cleaner
from robe.data.columns import Field
from robe.data.dataset import PreparedDataset
from robe.data.format import CREATED_WITH, DataError, FieldInfo, Manifest, SourceInfo, file_digest
from robe.data.progress import bar
from robe.data.quarantine import Quarantine
from robe.data.source import Source
from robe.data.spec import TableSpec
from robe.data.staging import keep_inputs, staged_folder
from robe.data.writer import SplitWriter, write_manifest

log = logging.getLogger("robe")

Paths = str | Path | Sequence[str | Path]


def prepare_table(
    sources: Paths,
    out: str | Path,
    spec: TableSpec,
    *,
    validation: str | Path | None = None,
    test: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> PreparedDataset:
    """Makes a prepared data set of raw tables, in memory that does not grow with their rows.

    With ``ids="vocabulary"`` memory holds the vocabulary, and the clean rows pass over the disk once more.

    Args:
        sources: one or several CSV, TSV or Parquet files, of the same columns.
        out: the folder to make.
        spec: what the columns become.
        validation: a file all of whose rows are for validation. Default None.
        test: a file all of whose rows are for testing. Default None.
        overwrite: replace an existing data set ``out`` (after success only); nothing else is. Default False.
        progress: show progress bars on standard error. Default False.

    Returns:
        The open data set. Malformed rows are in its ``quarantine.tsv``, and counted in its manifest.

    Raises:
        FileNotFoundError: a source is not there.
        FileExistsError: ``out`` exists and ``overwrite`` is False, or it is no data set of robe.
        DataError: a source cannot be used or would be overwritten, too many rows are malformed, or no row is
            left to train on.
    """
    paths = [sources] if isinstance(sources, str | Path) else list(sources)
    inputs: list[tuple[Source, str | None]] = [(Source(path, spec), None) for path in paths]
    inputs += [(Source(path, spec), split) for path, split in ((validation, "validation"), (test, "test")) if path]
    if not paths:
        raise DataError("sources: expected at least one file, got none")
    for source, _ in inputs:
        source.require(spec.needed())
    for name in spec.leaking:
        log.warning("column %r makes both the label and a feature, so that the label leaks into the features", name)
    return _prepare(inputs, Path(out), Cleaner(spec), spec.max_bad_rows, overwrite, progress)


def encode_table(
    source: str | Path, like: PreparedDataset, out: str | Path, *, overwrite: bool = False, progress: bool = False
) -> PreparedDataset:
    """Makes new raw rows into a data set with one split ``predict``, by the spec and vocabulary of ``like``.

    Every row of the source becomes a row of the split, in order; a malformed row is an error. Labels are NaN where
    they are missing.

    Args:
        source: a CSV, TSV or Parquet file; columns that only the label needs may be absent.
        like: a data set made by :func:`prepare_table`.
        out: the folder to make.
        overwrite: replace an existing data set ``out``. Default False.
        progress: show progress bars on standard error. Default False.

    Raises:
        DataError: ``like`` is not from a table or would be overwritten, or a row is malformed.
    """
    if like.manifest.kind != "table":
        raise DataError(
            f"like: {like.path} is {like.manifest.kind}, not made of a table, so that a raw table does not fit it"
        )
    spec = TypeAdapter(TableSpec).validate_python(like.manifest.spec)
    return _prepare(
        [(Source(source, spec), "predict")], Path(out), Cleaner(spec, label=False), 0, overwrite, progress, like
    )


def _prepare(
    inputs: list[tuple[Source, str | None]],
    out: Path,
    cleaner: Cleaner,
    max_bad_rows: float,
    overwrite: bool,
    progress: bool,
    like: PreparedDataset | None = None,
) -> PreparedDataset:
    spec = cleaner.spec
    infos: list[SourceInfo] = []
    keep_inputs(out, [source.path for source, _ in inputs] + ([like.path] if like else []))
    with staged_folder(out, overwrite) as folder:
        with ExitStack() as stack:
            quarantine = stack.enter_context(Quarantine(folder, max_bad_rows))
            advance = stack.enter_context(bar("reading", sum(s.bytes for s, _ in inputs), "B", progress))
            frames = _read(inputs, cleaner, quarantine, advance, infos)
            if spec.ids == "vocabulary" and like is None:
                frames, vocabularies = _count(frames, folder, spec)
            else:
                vocabularies = _load_vocabularies(like)
            fields = [_field(spec, name, vocabularies, like) for name in spec.field_names]
            writers = {
                name: SplitWriter(folder, name, fields, len(spec.numeric))
                for name in (("train", "validation", "test") if like is None else ("predict",))
            }
            lookups = {f.name: _lookup(spec, vocabularies.get(f.name)) for f in fields}
            for frame in frames:
                _write(frame, spec, fields, lookups, writers)
            shutil.rmtree(folder / "spill", ignore_errors=True)
            splits = {name: info for name, writer in writers.items() if (info := writer.close()).rows}
            written = sum(info.rows for info in splits.values())
            _require_rows(quarantine, written, splits, like is None)
        files = _save_vocabularies(folder, vocabularies if like is None else {}, fields)
        known = [info for info in splits.values() if info.label_rate is not None]
        manifest = Manifest(
            created_with=CREATED_WITH,
            kind="table",
            ids={"kind": spec.ids, "definition": _DEFINITIONS[spec.ids]},
            fields=tuple(
                FieldInfo(name=f.name, num_embeddings=f.num_embeddings, multi=f.multi, vocabulary=files.get(f.name))
                for f in fields
            ),
            dense=spec.numeric,
            splits=splits,
            rows_read=quarantine.rows_read,
            rows_written=written,
            rows_quarantined=quarantine.rows,
            label_rate=sum(i.rows * (i.label_rate or 0) for i in known) / sum(i.rows for i in known) if known else None,
            missing_numeric=cleaner.missing,
            spec=asdict(spec),
            sources=tuple(infos),
            details={} if like is None else {"like": like.digest},
        )
        write_manifest(folder, manifest)
    return PreparedDataset.open(out)


_DEFINITIONS = {"direct": tk.DIRECT_DEFINITION, "vocabulary": tk.VOCABULARY_DEFINITION, "raw": tk.RAW_DEFINITION}


def _read(
    inputs: list[tuple[Source, str | None]],
    cleaner: Cleaner,
    quarantine: Quarantine,
    advance: Callable[[float], None],
    infos: list[SourceInfo],
) -> Iterator[pl.DataFrame]:
    for source, split in inputs:
        read, bad = quarantine.rows_read, quarantine.rows
        yield from cleaner.frames(source, split, quarantine, advance)
        infos.append(
            SourceInfo(
                file=source.path.name,
                bytes=source.bytes,
                sha256=file_digest(source.path),
                rows=quarantine.rows_read - read,
                quarantined=quarantine.rows - bad,
            )
        )
    quarantine.check(final=True)


def _count(
    frames: Iterable[pl.DataFrame], folder: Path, spec: TableSpec
) -> tuple[Iterator[pl.DataFrame], dict[str, tk.Vocabulary]]:
    """Counts all tokens; the frames wait on disk meanwhile."""
    counters = {name: tk.TokenCounter() for name in spec.field_names}
    spill = folder / "spill"
    spill.mkdir()
    files: list[Path] = []
    for frame in frames:
        files.append(spill / f"{len(files):05d}.arrow")
        frame.write_ipc(files[-1], compression="lz4")
        counted = frame.filter(pl.col("split") == "train") if spec.vocabulary_from == "train" else frame
        for name, counter in counters.items():
            counter.add(counted[f"token.{name}"])
    vocabularies = {name: counter.vocabulary(spec.min_count) for name, counter in counters.items()}
    return (pl.read_ipc(file) for file in files), vocabularies


def _write(
    frame: pl.DataFrame,
    spec: TableSpec,
    fields: Sequence[Field],
    lookups: dict[str, tk.Lookup | None],
    writers: dict[str, SplitWriter],
) -> None:
    singles, bags = [], {}
    for field in fields:
        tokens, lookup = frame[f"token.{field.name}"], lookups[field.name]
        if field.multi:
            bags[field.name] = tk.encode_bags(tokens, lookup)
        else:
            singles.append((tk.encode(tokens, lookup) if lookup else tokens).to_numpy())
    label = frame["label"].to_numpy()
    dense = frame.select(f"dense.{name}" for name in spec.numeric).to_numpy() if spec.numeric else None
    ids = np.stack(singles, axis=1) if singles else None
    for name, writer in writers.items():
        rows = np.flatnonzero((frame["split"] == name).to_numpy())
        writer.write(
            label[rows],
            None if dense is None else dense[rows],
            None if ids is None else ids[rows],
            {field: bag.take(rows) for field, bag in bags.items()},
        )


def _require_rows(quarantine: Quarantine, written: int, splits: Mapping[str, object], train: bool) -> None:
    if not quarantine.rows_read:
        raise DataError("the sources have no rows, only a header")
    if quarantine.rows_read != written + quarantine.rows:
        raise RuntimeError(f"{quarantine.rows_read} rows read, {written} written, {quarantine.rows} quarantined")
    if train and "train" not in splits:
        malformed = f"; {quarantine.rows} more are malformed, the first: {quarantine.first}" if quarantine.rows else ""
        used = f", all for {sorted(splits)}; change the split" if written else ""
        raise DataError(f"no row is left to train on: {written} rows{used}{malformed}")


def _field(spec: TableSpec, name: str, vocabularies: dict[str, tk.Vocabulary], like: PreparedDataset | None) -> Field:
    vocabulary = vocabularies.get(name)
    return Field(name, vocabulary.num_embeddings if vocabulary else None, name in {bag for bag, _ in spec.bags})


def _lookup(spec: TableSpec, vocabulary: tk.Vocabulary | None) -> tk.Lookup | None:
    if spec.ids == "raw":
        return None
    return vocabulary.ids if vocabulary else tk.direct_ids


def _save_vocabularies(folder: Path, vocabularies: dict[str, tk.Vocabulary], fields: Sequence[Field]) -> dict[str, str]:
    files = {field.name: f"vocabulary/{f:02d}.parquet" for f, field in enumerate(fields) if field.name in vocabularies}
    if files:
        (folder / "vocabulary").mkdir()
    for name, file in files.items():
        vocabularies[name].save(folder / file)
    return files


def _load_vocabularies(like: PreparedDataset | None) -> dict[str, tk.Vocabulary]:
    if like is None:
        return {}
    infos = [info for info in like.manifest.fields if info.vocabulary]
    return {info.name: tk.Vocabulary.load(like.path / str(info.vocabulary)) for info in infos}
