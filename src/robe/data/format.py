"""The manifest of a prepared data set: docs/formats.md, section "Prepared data set"."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, ValidationError

FORMAT = "robe-prepared"
VERSION = 1
MANIFEST = "manifest.json"
CREATED_WITH = f"robe {version('robe')}"


class DataError(ValueError):
    """Data that cannot be used as asked; the message says what, where and the remedy."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ShardInfo(_Strict):
    """One Arrow file of a split."""

    file: str
    rows: PositiveInt
    bytes: PositiveInt
    sha256: str


class SplitInfo(_Strict):
    """One split: its shards in order, and what is known of its labels."""

    rows: NonNegativeInt
    label_rate: float | None
    shards: tuple[ShardInfo, ...]
    best_auc: float | None = None


class FieldInfo(_Strict):
    """One field; ``vocabulary`` is the Parquet file of its tokens, when there is one."""

    name: str
    num_embeddings: PositiveInt | None
    multi: bool = False
    vocabulary: str | None = None


class SourceInfo(_Strict):
    """One raw file that was read; the digest is None where it would cost a pass over a terabyte."""

    file: str
    bytes: NonNegativeInt
    sha256: str | None
    rows: NonNegativeInt
    quarantined: NonNegativeInt


class Manifest(_Strict):
    """All that is known of a prepared data set except its rows."""

    format: Literal["robe-prepared"] = "robe-prepared"
    version: int = VERSION
    created_with: str
    kind: Literal["table", "synthetic", "criteo"]
    ids: dict[str, str]
    fields: tuple[FieldInfo, ...]
    dense: tuple[str, ...]
    splits: dict[str, SplitInfo]
    rows_read: NonNegativeInt
    rows_written: NonNegativeInt
    rows_quarantined: NonNegativeInt = 0
    label_rate: float | None
    missing_numeric: dict[str, int] = {}
    spec: dict[str, Any]
    sources: tuple[SourceInfo, ...] = ()
    details: dict[str, Any] = {}

    def digest(self) -> str:
        """Identity of the content, 64 hexadecimal digits: equal for equal fields and equal shards."""
        content = {
            "version": self.version,
            "fields": [[f.name, f.num_embeddings, f.multi] for f in self.fields],
            "dense": self.dense,
            "splits": {name: [shard.sha256 for shard in split.shards] for name, split in self.splits.items()},
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of ``folder``.

    Raises:
        FileNotFoundError: there is no such folder, or no manifest in it.
        DataError: the manifest is not one, is of another version, or is damaged.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; make a data set with `robe prepare`")
    file = folder / MANIFEST
    if not file.is_file():
        raise FileNotFoundError(f"{folder}: no {MANIFEST} in it, so it is no prepared data set; see `robe prepare`")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file}: not JSON ({error}); prepare the data again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{file}: not the manifest of a prepared data set (format is not {FORMAT!r})")
    if content.get("version") != VERSION:
        raise DataError(
            f"{file}: format version {content.get('version')!r}, this robe reads version {VERSION}; "
            "prepare the data again, or use the robe that made it"
        )
    try:
        return Manifest.model_validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{file}: damaged at {where}: {first['msg']}; prepare the data again") from error


def file_digest(file: Path) -> str:
    """SHA-256 of the bytes of ``file``, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
