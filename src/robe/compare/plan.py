"""What a comparison will train: arms (method x size) x seeds, and the values to tune, all checked before any run."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml

from robe.checks import nearest, require_positive
from robe.compare.records import Arm, Value
from robe.train.config import (
    SIZES,
    EmbeddingConfig,
    RunConfig,
    load_config,
    parse_overrides,
    require_file,
    resolve,
    to_dict,
)

METHODS: tuple[str, ...] = get_args(get_type_hints(EmbeddingConfig)["kind"])
_SECTIONS = tuple(f.name for f in dataclasses.fields(RunConfig))
_VARIANT_KEYS = ("name", "model", "embedding", "train")
_FILE_KEYS = ("methods", "compression", "block_size", "seeds", "tune", "variants")


@dataclass(frozen=True)
class Plan:
    """A comparison to run.

    Args:
        base: RunConfig values shared by all runs, by dotted key.
        arms: the lines of the table.
        seeds: training seeds of every arm.
        tune: values to try per arm, by dotted config key; empty for no tuning.
    """

    base: Mapping[str, Any]
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    tune: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    def choices(self) -> tuple[dict[str, Value], ...]:
        """Every combination of the values to tune, in the order given; one empty choice without tuning."""
        return tuple(dict(zip(self.tune, values, strict=True)) for values in itertools.product(*self.tune.values()))

    def config(self, arm: Arm, choice: Mapping[str, Value], seed: int) -> RunConfig:
        """The resolved configuration of one run."""
        layers = (self.base, arm.settings, choice, {"train.seed": seed})
        return resolve(load_config(overrides=_overlay(*layers)))

    def run_name(self, arm: Arm, choice: Mapping[str, Value], seed: int) -> str:
        """The run folder's name, such as ``robe-z4-1000x-init_std=0.01-seed0``."""
        tuned = [f"{key.partition('.')[2]}={value}" for key, value in choice.items()]
        return "-".join([arm.key, *(_slug(text) for text in tuned), f"seed{seed}"])


def make_plan(
    data: Path | str,
    *,
    methods: Sequence[str] | None = None,
    compression: Sequence[float] | None = None,
    block_size: Sequence[int] | None = None,
    seeds: int | None = None,
    overrides: Iterable[str] = (),
    tune: Iterable[str] = (),
    config: Path | str | None = None,
) -> Plan:
    """Reads and checks everything that a comparison is asked to do; arguments win over the file.

    Args:
        data: prepared data set folder.
        methods: embedding kinds; default ``full`` and ``robe``, or none when the file has variants.
        compression: sizes, crossed with every method but full tables; default 1000.
        block_size: Z, crossed with the method ``robe``; default the config's.
        seeds: how many seeds, from ``train.seed`` upwards; default 1.
        overrides: ``section.key=value`` for all runs.
        tune: ``section.key=value,value,...``, tried per method and size on validation AUC.
        config: YAML or JSON file: the sections of a run's config, and ``variants`` (a list of
            ``{name, embedding, train, model}``), ``methods``, ``compression``, ``block_size``, ``seeds``, ``tune``.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: an unknown method, key or a value out of range; nothing has been written by then.
    """
    sections, options = _read_file(config)
    variants = [_check_variant(i, v) for i, v in enumerate(_list(options.get("variants")))]
    methods = _list(methods or options.get("methods")) or ([] if variants else ["full", "robe"])
    for method in methods:
        if method not in METHODS:
            raise ValueError(f"methods: unknown method {method!r}; {nearest(str(method), METHODS)}")
    base = load_config(overrides=_overlay(sections, parse_overrides(overrides)))
    base = dataclasses.replace(base, data=dataclasses.replace(base.data, path=str(data)))
    arms = _arms(
        [{"name": m, "embedding": {"kind": m}} for m in methods] + variants,
        _list(compression or options.get("compression")),
        _list(block_size or options.get("block_size")),
        base,
    )
    count = seeds if seeds is not None else options.get("seeds", 1)
    require_positive("seeds", count)
    plan = Plan(
        base=_flat(base),
        arms=arms,
        seeds=tuple(range(base.train.seed, base.train.seed + count)),
        tune=_tuning([*_list(tune)] or options.get("tune") or {}),
    )
    return _checked(plan)


def flat_config(config: RunConfig) -> dict[str, Value]:
    """A config as scalars by dotted key; lists become text such as ``512-256``."""
    return {k: "-".join(map(str, v)) if isinstance(v, list) else v for k, v in _flat(config).items()}


def _arms(
    variants: Sequence[Mapping[str, Any]], compression: list[Any], blocks: list[Any], base: RunConfig
) -> tuple[Arm, ...]:
    arms = []
    for variant in variants:
        own = variant.get("embedding") or {}
        fixed = {f"{s}.{k}": v for s in _VARIANT_KEYS[1:] for k, v in (variant.get(s) or {}).items()}
        kind = own.get("kind", base.embedding.kind)
        own_size = any(own.get(key) is not None for key in SIZES)
        grid_sizes = [{"embedding.compression": c} for c in compression]
        sizes = [{}] if kind == "full" or own_size else grid_sizes or [{}]
        grid_blocks = [{"embedding.block_size": z} for z in blocks]
        zs = [{}] if kind != "robe" or "block_size" in own else grid_blocks or [{}]
        for z, size in itertools.product(zs, sizes):
            arms.append(_arm(str(variant["name"]), _overlay(fixed, z, size), base))
    if not arms:
        raise ValueError(f"methods: expected at least one method or variant, got none; known methods: {list(METHODS)}")
    keys = [arm.key for arm in arms]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"two lines of the comparison are both called {key!r}: give every variant its own name")
    return tuple(arms)


def _arm(name: str, settings: Mapping[str, Any], base: RunConfig) -> Arm:
    embedding = resolve(load_config(overrides=_overlay(_flat(base), settings))).embedding
    block_size = embedding.block_size if embedding.kind == "robe" else None
    size = _size_text(embedding)
    parts = [_slug(name), f"z{block_size}" if block_size else "", "" if size == name == "full" else _slug(size)]
    return Arm("-".join(p for p in parts if p), name, embedding.kind, size, block_size, dict(settings))


def _size_text(embedding: EmbeddingConfig) -> str:
    if embedding.compression is not None:
        return f"{embedding.compression:g}x"
    if embedding.num_slots is not None:
        return f"{embedding.num_slots} slots"
    return "full" if embedding.memory is None else f"{embedding.memory}"


def _checked(plan: Plan) -> Plan:
    """Resolves the config of every run now: a mistake in the last run must not cost the hours before it."""
    for arm, choice in itertools.product(plan.arms, plan.choices()):
        try:
            plan.config(arm, choice, plan.seeds[0])
        except ValueError as error:
            raise ValueError(f"{arm.label}: {error}") from error
    return plan


def _tuning(tune: Sequence[str] | Mapping[str, Any]) -> dict[str, tuple[Value, ...]]:
    """``["a.b=1,2"]`` or ``{"a.b": [1, 2]}`` as values by key, each checked and in its config's type."""
    if not isinstance(tune, Mapping):
        tune = dict(_values(text) for text in tune)
    result = {}
    for key, values in tune.items():
        if key in ("train.seed", "embedding.kind", "data.path"):
            raise ValueError(
                f"tune: {key} cannot be tuned: it says what is compared; use --seeds, --methods or variants"
            )
        section, _, name = key.partition(".")
        typed = []
        for value in _list(values):
            read = to_dict(load_config(overrides={key: value}))[section][name]
            if isinstance(read, list):
                raise ValueError(f"tune: {key} is a list; compare lists as variants in a file")  # noqa: TRY004
            typed.append(read)
        if len(typed) < 2 or len(set(typed)) < len(typed):
            raise ValueError(f"tune: {key}: expected two or more different values, got {typed}")
        result[key] = tuple(typed)
    return result


def _read_file(path: Path | str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The run sections by dotted key, and the keys of the comparison itself."""
    if path is None:
        return {}, {}
    require_file(path)
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected a YAML or JSON configuration: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected sections at the top, got {content!r:.60}")  # noqa: TRY004
    sections: dict[str, Any] = {}
    for key, value in content.items():
        if key not in _SECTIONS and key not in _FILE_KEYS:
            raise ValueError(f"{path}: unknown key {key!r}; {nearest(str(key), _SECTIONS + _FILE_KEYS)}")
        if key in _SECTIONS:
            if not isinstance(value, dict):
                raise ValueError(f"{path}: {key}: expected keys and values, got {value!r}")
            sections |= {f"{key}.{name}": v for name, v in value.items()}
    return sections, {k: v for k, v in content.items() if k in _FILE_KEYS}


def _check_variant(i: int, variant: Any) -> dict[str, Any]:
    if not isinstance(variant, dict) or not variant.get("name"):
        raise ValueError(f"variants[{i}]: expected {{name, embedding, train}}, got {variant!r}")
    for key, value in variant.items():
        if key not in _VARIANT_KEYS:
            raise ValueError(f"variants[{i}]: unknown key {key!r}; {nearest(str(key), _VARIANT_KEYS)}")
        if key != "name" and not isinstance(value, dict):
            raise ValueError(f"variants[{i}].{key}: expected keys and values, got {value!r}")
    return variant


def _values(text: str) -> tuple[str, list[Any]]:
    """``"a.b=1,2"`` as a key and its values, each read as YAML."""
    key, equals, values = text.partition("=")
    if not equals or not values.strip():
        raise ValueError(f"tune: expected section.key=value,value such as embedding.init_std=0.001,0.01, got {text!r}")
    try:
        return key.strip(), [yaml.safe_load(value) for value in values.split(",")]
    except yaml.YAMLError as error:
        raise ValueError(f"tune: {text!r} cannot be read as YAML: {' '.join(str(error).split())}") from error


def _overlay(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Later layers win; a size in one replaces the sizes below it, and full tables have none."""
    merged: dict[str, Any] = {}
    for layer in layers:
        if layer.get("embedding.kind") == "full" or any(layer.get(f"embedding.{s}") is not None for s in SIZES):
            merged |= {f"embedding.{s}": None for s in SIZES}
        merged |= layer
    return merged


def _flat(config: RunConfig) -> dict[str, Any]:
    return {f"{section}.{key}": v for section, values in to_dict(config).items() for key, v in values.items()}


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._=-]+", "-", text).strip("-.") or "run"
