"""New raw lines, made into rows as those of a prepared data set were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import TypeAdapter

from robe.data.criteo.columns import COLUMNS, NUM_DENSE
from robe.data.criteo.encode import Scale
from robe.data.criteo.parse import MARGIN, Rows, parse
from robe.data.criteo.raw import PIECE_BYTES, Buffer, RawFile
from robe.data.criteo.spec import CriteoSpec
from robe.data.dataset import PreparedDataset
from robe.data.format import CREATED_WITH, DataError, FieldInfo, Manifest, SourceInfo
from robe.data.progress import bar
from robe.data.staging import keep_inputs, staged_folder
from robe.data.writer import SplitWriter, write_manifest


def encode_criteo(
    source: str | Path,
    like: PreparedDataset,
    out: str | Path,
    *,
    overwrite: bool = False,
    progress: bool = False,
    piece_bytes: int = PIECE_BYTES,
) -> PreparedDataset:
    """Makes a raw file into a data set with one split ``predict``, by the spec, vocabulary and scale of ``like``.

    Every line becomes a row of the split, in order; a malformed line is an error. A file whose first line has 39
    columns has no labels, as Criteo Kaggle's ``test.txt``; they are NaN then. Memory holds the vocabulary.

    Args:
        source: a file as :func:`robe.data.prepare_criteo` takes.
        like: a data set made by :func:`robe.data.prepare_criteo`.
        out: the folder to make.
        overwrite: replace an existing data set ``out``. Default False.
        progress: show a progress bar on standard error. Default False.
        piece_bytes: text that is read at a time. Default 32 MB.

    Raises:
        FileNotFoundError: the source, or a vocabulary file of ``like``, is not there.
        DataError: ``like`` is not of Criteo or would be overwritten, a line is malformed, or a token is not in a
            vocabulary that has no id for unknown ones.
    """
    if like.manifest.kind != "criteo":
        raise DataError(f"like: {like.path} is {like.manifest.kind}, not made of Criteo's files")
    spec = TypeAdapter(CriteoSpec).validate_python(like.manifest.spec)
    raw = RawFile(source, piece_bytes)
    keep_inputs(Path(out), [like.path] + ([] if "://" in raw.path else [Path(raw.path)]))
    details: dict[str, Any] = {
        key: like.manifest.details[key] for key in ("low", "high") if key in like.manifest.details
    }
    scale = Scale(*(np.array(details[key]) if details else None for key in ("low", "high")))
    lines, missing = 0, np.zeros(NUM_DENSE, dtype=np.int64)
    with staged_folder(Path(out), overwrite) as folder:
        with ExitStack() as stack:
            advance = stack.enter_context(bar("reading", raw.bytes, "B", progress))
            encoder = _Encoder(like, spec, raw.path)
            writer = SplitWriter(folder, "predict", like.fields, NUM_DENSE)
            for rows, labelled, done in _parsed(raw, spec):
                n = rows.count
                label = rows.label[:n] if labelled else np.full(n, np.nan, dtype=np.float32)
                writer.write(label, scale(rows.dense[:n]), encoder.ids(rows.tokens[:n], lines))
                lines, missing = lines + n, missing + rows.missing
                advance(done)
            split = writer.close()
        if not lines:
            raise DataError(f"{raw.path}: no line in it")
        manifest = Manifest(
            created_with=CREATED_WITH,
            kind="criteo",
            ids=like.manifest.ids,
            fields=tuple(FieldInfo(name=f.name, num_embeddings=f.num_embeddings) for f in like.fields),
            dense=like.dense_names,
            splits={"predict": split},
            rows_read=lines,
            rows_written=lines,
            label_rate=split.label_rate,
            missing_numeric=dict(zip(like.dense_names, missing.tolist(), strict=True)),
            spec=like.manifest.spec,
            sources=(SourceInfo(file=raw.name, bytes=raw.bytes, sha256=None, rows=lines, quarantined=0),),
            details={"like": like.digest, **details},
        )
        write_manifest(folder, manifest)
    return PreparedDataset.open(out)


def _parsed(raw: RawFile, spec: CriteoSpec) -> Iterator[tuple[Rows, bool, float]]:
    """The rows of each piece, whether they have labels, and the bytes of the file read for them."""
    labelled = raw.head().partition(b"\n")[0].count(b"\t") != COLUMNS - 2
    buffer, lines, position = Buffer(), 0, 0
    for _ in _pieces(raw, buffer):
        if buffer.truncated:
            raise DataError(f"{raw.path}: the gzip data end in the middle of the file")
        text = bytes(buffer.text)
        if not labelled and text:
            text = b"0\t" + text[:-1].replace(b"\n", b"\n0\t") + b"\n"
        rows = Rows.allocate(text.count(b"\n"), "log1p" if spec.numeric_transform == "log1p" else "none")
        parse(bytearray(MARGIN) + text + bytes(MARGIN), MARGIN, MARGIN + len(text), rows)
        if rows.malformed:
            line, reason, _ = rows.malformed[0]
            counted = "" if labelled else " (a label, which the first line has not, is counted)"
            raise DataError(
                f"{raw.path} line {lines + line + 1}: {reason}{counted}; every line gets a row, so correct it"
            )
        if spec.max_ind_range:
            rows.tokens %= spec.max_ind_range
        yield rows, labelled, raw.position - position if raw.pieces is None else raw.bytes / raw.pieces
        lines, position = lines + rows.lines, raw.position


def _pieces(raw: RawFile, buffer: Buffer) -> Iterator[int]:
    if raw.pieces is None:
        yield from raw.stream(buffer)
        return
    for piece in range(raw.pieces):
        raw.read(piece, buffer)
        yield piece


class _Encoder:
    """Tokens to the ids that they have in ``like``."""

    def __init__(self, like: PreparedDataset, spec: CriteoSpec, source: str) -> None:
        self._fields = like.manifest.fields
        self._path = like.path
        self._source = source
        self._unknown = np.uint32(spec.has_unknown)
        self._known: list[tuple[NDArray[np.uint32], NDArray[np.int64]]] = []  # sorted tokens, their rows
        for info in self._fields if spec.ids == "vocabulary" else ():
            tokens = pq.read_table(like.path / str(info.vocabulary), columns=["token"])["token"].to_numpy()
            order = np.argsort(tokens)
            self._known.append((tokens[order], order))

    def ids(self, tokens: NDArray[np.int64], line: int) -> NDArray[np.int64]:
        """Ids [n, 26] of ``tokens`` [n, 26], which are those of the lines after ``line``."""
        if not self._known:
            return tokens
        ids = np.empty_like(tokens)
        for f, (known, rows) in enumerate(self._known):
            column = tokens[:, f].astype(np.uint32)
            at = np.searchsorted(known, column)
            at[at == len(known)] = 0
            found = known[at] == column if len(known) else np.zeros(len(column), dtype=bool)
            if not self._unknown and not found.all():
                bad = int(np.flatnonzero(~found)[0])
                raise DataError(
                    f"{self._source} line {line + bad + 1}: {self._fields[f].name} is {column[bad]:08x}, which the "
                    f"vocabulary of {self._path} has not, nor has it an id for unknown tokens; prepare and train with "
                    "--vocabulary-from train, --min-count 2 or --ids direct"
                )
            ids[:, f] = np.where(found, rows[at] + self._unknown, 0) if len(known) else 0
        return ids
