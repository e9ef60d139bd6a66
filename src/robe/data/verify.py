"""Checks of a prepared data set that read all of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from robe.data.criteo.columns import KAGGLE_LINES
from robe.data.dataset import PreparedDataset
from robe.data.format import DataError, file_digest
from robe.data.progress import bar
from robe.data.quarantine import FILE
from robe.data.stats import distinct_counts
from robe.data.synthetic import CRITEO_CARDINALITIES


@dataclass(frozen=True)
class Check:
    """One check.

    Args:
        what: was checked.
        passed: True, False, or None when it does not apply.
        found: in words.
    """

    what: str
    passed: bool | None
    found: str


def verify(path: str | Path, *, progress: bool = False) -> list[Check]:
    """Reads all of a data set and compares it with its manifest; Criteo Kaggle also with the paper's Appendix C.

    Args:
        path: folder made by ``robe prepare``.
        progress: show progress bars on standard error. Default False.

    Returns:
        The checks in order. A failed one does not stop the others.

    Raises:
        FileNotFoundError: no such folder, no manifest, or a missing shard.
        DataError: a manifest of another version or damaged, or a shard of wrong size.
    """
    dataset = PreparedDataset.open(path)
    checks = [_shards(dataset, progress)]
    if checks[0].passed:
        checks += [*_values(dataset, progress), _rows(dataset), _vocabularies(dataset)]
        checks += _appendix(dataset, progress)
    return checks


def _shards(dataset: PreparedDataset, progress: bool) -> Check:
    shards = [shard for split in dataset.manifest.splits.values() for shard in split.shards]
    bad = []
    with bar("digests", sum(shard.bytes for shard in shards), "B", progress) as advance:
        for shard in shards:
            if file_digest(dataset.path / shard.file) != shard.sha256:
                bad.append(shard.file)
            advance(shard.bytes)
    found = f"{len(shards)} shards" if not bad else f"{len(bad)} of {len(shards)} are damaged: {', '.join(bad[:5])}"
    return Check("SHA-256 of the shards", not bad, found)


def _values(dataset: PreparedDataset, progress: bool) -> Iterator[Check]:
    """Labels are 0 or 1, numbers finite, ids inside their tables; clicks as the manifest says."""
    wrong: dict[str, int] = {"labels": 0, "numbers": 0, "ids": 0}
    singles = [field for field in dataset.fields if not field.multi]
    limit = np.array([field.num_embeddings or 2**63 - 1 for field in singles], dtype=np.int64)
    bounded = np.array([field.num_embeddings is not None for field in singles], dtype=bool)
    rates = []
    with bar("values", sum(map(dataset.rows, dataset.splits)), "rows", progress) as advance:
        for name in dataset.splits:
            clicks = 0.0
            for columns in dataset.split(name).shards():
                known = np.isnan(columns.label) if name == "predict" else False
                wrong["labels"] += int(np.count_nonzero(~((columns.label == 0) | (columns.label == 1) | known)))
                clicks += float(columns.label.sum(dtype=np.float64))
                if columns.dense is not None:
                    wrong["numbers"] += int(np.count_nonzero(~np.isfinite(columns.dense)))
                if columns.ids is not None and bounded.any():
                    outside = (columns.ids < 0) | (columns.ids >= limit)
                    wrong["ids"] += int(np.count_nonzero(outside & bounded))
                advance(len(columns.label))
            rate = dataset.manifest.splits[name].label_rate
            if rate is not None and not np.isclose(clicks / dataset.rows(name), rate, rtol=1e-9):
                rates.append(name)
    yield Check(
        "values of the rows",
        not any(wrong.values()),
        ", ".join(f"{n} wrong {what}" for what, n in wrong.items()),
    )
    yield Check("label rates", not rates, f"differ in {rates}" if rates else "as in the manifest")


def _rows(dataset: PreparedDataset) -> Check:
    manifest = dataset.manifest
    file = dataset.path / FILE
    aside = 0
    if file.exists():
        with file.open(encoding="utf-8") as stream:
            aside = sum(1 for _ in stream) - 1
    rows = sum(map(dataset.rows, dataset.splits))
    good = rows == manifest.rows_written and aside == manifest.rows_quarantined
    good &= manifest.rows_read == manifest.rows_written + manifest.rows_quarantined
    return Check("read = written + quarantined", good, f"{manifest.rows_read:,} = {rows:,} + {aside:,}")


def _vocabularies(dataset: PreparedDataset) -> Check:
    infos = [info for info in dataset.manifest.fields if info.vocabulary]
    if not infos:
        return Check("vocabularies", None, "none")
    wrong = []
    for info in infos:
        try:
            tokens = pq.read_metadata(dataset.path / str(info.vocabulary)).num_rows
        except (OSError, ValueError) as error:
            raise DataError(f"{dataset.path / str(info.vocabulary)}: not a vocabulary ({error})") from error
        if (info.num_embeddings or 0) - tokens not in (0, 1):
            wrong.append(info.name)
    return Check("vocabularies", not wrong, f"sizes differ for {wrong}" if wrong else f"{len(infos)} files")


def _appendix(dataset: PreparedDataset, progress: bool) -> Iterator[Check]:
    """The numbers of tokens of Criteo Kaggle that the paper's Appendix C has, in its order."""
    what = "26 token counts of the paper's Appendix C"
    manifest = dataset.manifest
    if manifest.spec.get("recipe") != "criteo-kaggle":
        return
    reasons = {
        f"another file: {manifest.rows_read:,} lines, the real file has {KAGGLE_LINES:,}": (
            manifest.rows_read != KAGGLE_LINES
        ),
        "tokens were taken modulo max_ind_range": manifest.spec.get("max_ind_range"),
        "rare or new tokens share an id": manifest.spec.get("min_count") != 1
        or manifest.spec.get("vocabulary_from") == "train",
    }
    reason = next((reason for reason, holds in reasons.items() if holds), None)
    if reason:
        yield Check(what, None, reason)
        return
    found = distinct_counts(dataset, progress=progress)
    wrong = [
        f"{name} has {own:,}, expected {expected:,}"
        for (name, own), expected in zip(found.items(), CRITEO_CARDINALITIES, strict=True)
        if own != expected
    ]
    yield Check(what, not wrong, "; ".join(wrong) if wrong else f"all 26, {sum(CRITEO_CARDINALITIES):,} together")
