"""What the ids and numbers of a prepared data set stand for: two data sets of the same sizes may differ in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robe.data import PreparedDataset


def encoding(dataset: PreparedDataset) -> dict[str, Any]:
    """What decides the meaning of the ids and numbers of ``dataset``, as JSON values.

    Returns:
        ``ids`` (kind), ``numeric_transform`` (None where there is none), ``scale`` (bounds of the numeric features,
        where they were measured), ``vocabularies`` (SHA-256 of the file of every field that has one).

    Raises:
        FileNotFoundError: a vocabulary file is missing.
    """
    from robe.data.format import file_digest

    manifest = dataset.manifest
    vocabularies = {}
    for field in manifest.fields:
        if field.vocabulary is None:
            continue
        file = dataset.path / field.vocabulary
        if not file.is_file():
            raise FileNotFoundError(f"{file}: the manifest names this vocabulary but it is not there; prepare it again")
        vocabularies[field.name] = file_digest(file)
    return {
        "ids": manifest.ids["kind"],
        "numeric_transform": manifest.spec.get("numeric_transform"),
        "scale": {key: manifest.details[key] for key in ("low", "high") if key in manifest.details},
        "vocabularies": vocabularies,
    }


def require_same_encoding(dataset: PreparedDataset, own: dict[str, Any], digest: str) -> None:
    """Raises ValueError unless ids and numbers of ``dataset`` mean what they meant in training.

    Args:
        dataset: data about to be given to a trained model.
        own: ``encoding`` of the data set of the run.
        digest: of the data set of the run; rows encoded with its vocabulary name it, and have no vocabulary files.
    """
    theirs = encoding(dataset)
    if dataset.manifest.details.get("like") == digest:
        theirs["vocabularies"] = own["vocabularies"]
    for key, what in (("ids", "kind of ids"), ("numeric_transform", "transform of numbers")):
        if own[key] != theirs[key]:
            raise _foreign(dataset, f"{what} is {theirs[key]!r}, the model was trained on {own[key]!r}")
    if own.get("scale", {}) != theirs["scale"]:
        raise _foreign(dataset, "numbers were scaled by other bounds than those of the model")
    names = own["vocabularies"].keys() | theirs["vocabularies"].keys()
    differing = sorted(name for name in names if own["vocabularies"].get(name) != theirs["vocabularies"].get(name))
    if differing:
        raise _foreign(dataset, f"vocabulary of {differing[:3]} is not the one that the model was trained on")


def _foreign(dataset: PreparedDataset, reason: str) -> ValueError:
    return ValueError(
        f"{dataset.path}: its ids or numbers mean something else to this model: its {reason}; use the data set of the "
        "run, or encode the raw rows with it (robe predict --data does)"
    )
