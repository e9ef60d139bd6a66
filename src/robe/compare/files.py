"""A comparison on disk: results.json, results.csv, summary.csv."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from robe.compare.records import Comparison, Estimate


def write_json(comparison: Comparison, path: Path) -> None:
    """Writes results.json: the whole comparison, and its summaries for readers in other languages."""
    content = asdict(comparison) | {"summaries": [asdict(s) for s in comparison.summaries()]}
    replace_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Comparison:
    """Reads a results.json back.

    Raises:
        ValueError: not a results.json of this format version.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(content, dict):
        content.pop("summaries", None)
    try:
        return TypeAdapter(Comparison).validate_python(content)
    except ValidationError as error:
        raise ValueError(f"{path}: expected a robe comparison of format version 1, got: {error}") from error


def write_results_csv(comparison: Comparison, path: Path) -> None:
    """Writes results.csv: one line a run, with every config value that differs between runs and every metric."""
    arms = {arm.key: arm for arm in comparison.arms}
    runs = comparison.records
    keys = sorted({key for r in runs for key in r.config})
    missing = object()
    differing = [key for key in keys if len({repr(r.config.get(key, missing)) for r in runs}) > 1]
    skipped = {"config", "settings", "curve"}
    rows = []
    for r in runs:
        arm = arms[r.arm]
        metrics = {k: v for k, v in vars(r).items() if k not in skipped}
        head = {"run": r.run, "arm": r.arm, "method": arm.method, "kind": arm.kind}
        rows.append(head | {key: r.config.get(key) for key in differing} | metrics)
    _write_csv(path, rows)


def write_summary_csv(comparison: Comparison, path: Path) -> None:
    """Writes summary.csv: one line an arm; ``_sd`` is the sample standard deviation over seeds."""
    rows: list[dict[str, Any]] = []
    for s in comparison.summaries():
        row: dict[str, Any] = {
            "arm": s.arm.key,
            "method": s.arm.method,
            "kind": s.arm.kind,
            "block_size": s.arm.block_size,
            "size": s.arm.size,
        }
        row |= {key: s.chosen.get(key) for key in comparison.tuned}
        row |= {"finished": s.finished, "failed": s.failed, "parameters": s.parameters}
        row |= {"megabytes": s.megabytes, "compression": s.compression}
        for name in ("test_auc", "test_logloss", "validation_auc", "delta_auc", "best_epoch", "samples_per_second"):
            value: Estimate | None = getattr(s, name)
            row |= {f"{name}_mean": value and value.mean, f"{name}_sd": value and value.spread}
        row["delta_auc_interval95"] = s.delta_auc and s.delta_auc.interval
        rows.append(row)
    _write_csv(path, rows)


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(temporary, path)


def replace_text(path: Path, text: str) -> None:
    """Writes a text file through a temporary name, so that a reader never sees half of it."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
