"""What a comparison was made from and on, for its record."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from robe.compare.records import DataFacts, Record
from robe.data import PreparedDataset
from robe.train.folder import RunFolder


def data_facts(dataset: PreparedDataset, path: str) -> DataFacts:
    """What a reader must know of the data set, under the path the user gave."""
    rows = [field.num_embeddings for field in dataset.fields]
    known = [n for n in rows if n is not None]
    return DataFacts(
        path=path,
        digest=dataset.digest,
        rows={split: dataset.rows(split) for split in dataset.splits},
        fields=len(dataset.fields),
        dense=dataset.num_dense,
        tokens=sum(known) if len(known) == len(rows) else None,
        best_auc=dataset.manifest.splits["test"].best_auc,
    )


def environment_facts(runs: Path, records: Iterable[Record]) -> dict[str, str]:
    """What the runs were made with and on; several values where runs of one comparison differ."""
    found: dict[str, dict[str, None]] = {}
    for record in records:
        path = RunFolder(runs / record.run).environment
        if not path.exists():
            continue
        content = json.loads(path.read_text(encoding="utf-8"))
        facts = {
            "Machine": f"{content['cpu']}, {content['cores']} cores, {content['platform']}",
            "Device": f"{content['device']}, {content['threads']} threads",
            "Versions": ", ".join(f"{k} {v}" for k, v in {"python": content["python"], **content["packages"]}.items()),
            "Commit": content["git_commit"] or "not in a git repository",
        }
        for key, value in facts.items():
            found.setdefault(key, {})[value] = None
    return {key: " | ".join(values) for key, values in found.items()}
