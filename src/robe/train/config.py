"""The configuration of a training run: frozen dataclasses, read from YAML or JSON, dotted overrides on top."""

import dataclasses
import inspect
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
)

from robe.checks import nearest

SIZES = ("compression", "num_slots", "memory")
DEFAULT_COMPRESSION = 1000.0
_NONE_IS_A_VALUE = ("model.first_order", "train.autocast")
_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class DataConfig:
    """Where the data lie.

    Args:
        path: prepared data set, a folder made by ``robe prepare``.
    """

    __pydantic_config__ = _STRICT

    path: str = ""


@dataclass(frozen=True)
class ModelConfig:
    """The network around the embeddings.

    Keys that stand at None take the model's own default (``robe.models``: those of the paper's runs); a model refuses
    keys that it does not know.

    Args:
        name: ``"dlrm"``, ``"dcn"``, ``"autoint"``, ``"deepfm"``, ``"xdeepfm"``, ``"fibinet"``, ``"dcnv2"`` or
            ``"finalmlp"``.
        embedding_dim: D, the size of every embedding; default 16.
        pooling: how the ids of a multi-valued field become one embedding: ``"mean"``, ``"sum"`` or ``"max"``.
        first_order: weights of single ids: ``"tied"`` (element 0 of the embedding), ``"own"`` (a table of dim 1 for
            each field, in the same ROBE array) or ``"none"``; dcn, autoint, deepfm, xdeepfm, fibinet.
        mlp: hidden layers of the deep part; all but dlrm.
        dropout: of the deep part; of dlrm's top MLP.
        batch_norm: normalise over the batch in the deep part; in dlrm's top MLP.
        mlp_init_std: standard deviation of the deep part's initial weights; ``"torch"`` for torch's own start; all but
            dlrm.
        bottom_mlp: dlrm: hidden layers over the numeric features; a last layer to ``embedding_dim`` follows by itself.
        top_mlp: dlrm: hidden layers over the interactions; a last layer to one logit follows by itself.
        concat_embeddings: dlrm: give the embeddings themselves to the top MLP too, beside their dot products. Worth
            trying where there are no numeric features.
        cross_layers: dcn, dcnv2: layers of the cross network.
        cross_rank: dcnv2: rank of the cross layers' matrices; None for whole ones.
        attention_layers: autoint: layers of self-attention.
        attention_heads: autoint: heads of a layer.
        attention_dim: autoint: size of a head.
        attention_residual: autoint: add a linear image of a layer's input.
        cin: xdeepfm: feature maps of each layer of the compressed interaction network.
        cin_split_half: xdeepfm: half of a layer's maps feeds the next layer, the other half the output.
        reduction_ratio: fibinet: fields per hidden unit of the SENET.
        bilinear: fibinet: ``"interaction"`` (a matrix per pair of fields), ``"each"`` or ``"all"``.
        second_mlp: finalmlp: hidden layers of the second stream.
        second_dropout: finalmlp: of the second stream.
        num_heads: finalmlp: heads of the fusion.
        gates: finalmlp: scale the inputs of each stream.
    """

    __pydantic_config__ = _STRICT

    name: Literal["dlrm", "dcn", "autoint", "deepfm", "xdeepfm", "fibinet", "dcnv2", "finalmlp"] = "dlrm"
    embedding_dim: PositiveInt = 16
    pooling: Literal["mean", "sum", "max"] = "mean"
    first_order: Literal["tied", "own", "none"] | None = None
    mlp: tuple[PositiveInt, ...] | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    batch_norm: bool | None = None
    mlp_init_std: PositiveFloat | Literal["torch"] | None = None
    bottom_mlp: tuple[PositiveInt, ...] | None = None
    top_mlp: tuple[PositiveInt, ...] | None = None
    concat_embeddings: bool | None = None
    cross_layers: PositiveInt | None = None
    cross_rank: PositiveInt | None = None
    attention_layers: PositiveInt | None = None
    attention_heads: PositiveInt | None = None
    attention_dim: PositiveInt | None = None
    attention_residual: bool | None = None
    cin: tuple[PositiveInt, ...] | None = None
    cin_split_half: bool | None = None
    reduction_ratio: PositiveInt | None = None
    bilinear: Literal["interaction", "each", "all"] | None = None
    second_mlp: tuple[PositiveInt, ...] | None = None
    second_dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    num_heads: PositiveInt | None = None
    gates: bool | None = None


@dataclass(frozen=True)
class EmbeddingConfig:
    """How embeddings are stored.

    Args:
        kind: ``"robe"`` (one shared array), ``"full"`` (a row per token), ``"hashing"`` (the hashing trick, row by
            row) or ``"capped"`` (hashing trick with small tables kept whole).
        compression: size as parameters of the full tables / parameters stored. At most one of ``compression``,
            ``num_slots`` and ``memory``; with none of them the compression is 1000. Full tables take none.
        num_slots: size as a number of parameters.
        memory: size in bytes, such as ``"64MB"``.
        block_size: Z, consecutive slots placed together; only for ``"robe"``; default 4.
        hash: ``"universal"`` (equation 5 of the paper), ``"mixed"`` or ``"released"``; only for ``"robe"``.
        seed: seed of the hash; None (default) follows ``train.seed``, so that runs over seeds vary the hash as well.
        use_sign: multiply each slot by a hashed sign (equation 2 of the paper); only for ``"robe"``.
        direct_rows: tables of up to this many rows are stored row by row beside the hashed ones, in the same array and
            its budget; only for ``"robe"``; default 0 (none, as in the paper).
        init_std: standard deviation of the normal initial values; default 0.01. Worth tuning for every kind and size.
        init_uniform: draw them from U(-b, b) instead, as DLRM does: b, or ``"rows"`` for sqrt(1 / rows) of each table
            (of the largest one for a shared array); default None.
    """

    __pydantic_config__ = _STRICT

    kind: Literal["robe", "full", "hashing", "capped"] = "robe"
    compression: PositiveFloat | None = None
    num_slots: PositiveInt | None = None
    memory: PositiveInt | str | None = None
    block_size: PositiveInt = 4
    hash: Literal["universal", "mixed", "released"] = "universal"
    seed: int | None = None
    use_sign: bool = False
    direct_rows: NonNegativeInt = 0
    init_std: NonNegativeFloat = 0.01
    init_uniform: PositiveFloat | Literal["rows"] | None = None


@dataclass(frozen=True)
class TrainConfig:
    """How the model is trained.

    Args:
        epochs: most passes over the training rows; default 10.
        max_steps: most optimizer steps, for trials; default None (no limit).
        batch_size: rows of an optimizer step; default 2048.
        eval_batch_size: rows of an evaluation batch; default 16384.
        shuffle_rows: rows that are shuffled together in memory; a smaller training split is shuffled as a whole, a
            larger one window by window. Default 2^20. More for data sorted by user or by time, where it matters.
        optimizer: ``"adam"``, ``"sgd"`` or ``"adagrad"``.
        learning_rate: of all parameters; default 1e-3.
        momentum: of ``"sgd"``; default 0.
        embedding_optimizer: of the embeddings and first-order weights; None (default) for ``optimizer``.
        embedding_learning_rate: of the embeddings; None (default) for ``learning_rate``.
        base_batch_size: the batch size that the learning rates are meant for; they are scaled to ``batch_size`` by
            ``batch_scaling``. None (default): they are meant for ``batch_size``.
        batch_scaling: ``"linear"`` (default): rates follow the batch size; ``"sqrt"``: its root.
        warmup_steps: steps over which all rates rise linearly from 0; default 0.
        learning_rate_decay: factor on all learning rates per epoch, applied smoothly at every step; default 1 (none).
        decay_start_step: where a polynomial decay of power 2 to 0 begins, as in MLPerf's DLRM; default None (none).
        decay_steps: steps that it takes; with ``decay_start_step``.
        plateau_factor: factor on all rates at every evaluation without a better validation AUC; default None (none).
        clip_norm: largest norm of the gradient of all parameters together; default None (no clipping).
        autocast: ``"bfloat16"``: matrix products of training steps in that dtype, evaluations in float32; default
            ``"none"``.
        sparse_gradients: gradients of the touched rows only, for tables of rows: SparseAdam for ``"adam"``, which
            leaves the moments of untouched rows alone. ``"auto"`` (default): on for full tables where nothing else that
            is set forbids it: a penalty on their parameters, ``clip_norm``, momentum, pooling by max.
        weight_decay: L2 penalty on the network, ``weight_decay / 2`` times the sum of squares; default 0.
        weight_decay_on: the network's parameters that have it, by name, with ``*`` and ``?``; default all. For weights
            of the deep part alone, without biases: ``["deep.*weight"]``.
        embedding_weight_decay: the same on the embeddings; None (default) for ``weight_decay``.
        embedding_decay_on: what the embeddings' penalty counts. ``"parameters"`` (default): every stored number once;
            not with sparse gradients. ``"vectors"``: the embeddings of a batch's samples, the mean over samples.
        eval_every: steps between evaluations on the validation split; None (default) for once an epoch.
        early_stop_patience: evaluations in a row without a better validation AUC before training stops; default 2,
            None to never stop early.
        target_auc: stop at the first evaluation that reaches it, as in MLPerf; default None.
        checkpoint_every: steps between further checkpoints, besides the one at every evaluation; default None.
        log_every: steps between lines of train loss, and between checks that it is finite; default 100.
        seed: of initial values and shuffling, and of the hash unless ``embedding.seed`` is given; default 0.
        device: ``"auto"`` (CUDA where present), ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
        threads: CPU threads of torch; None (default) leaves torch's own number.
        tensorboard: also write TensorBoard events; needs the extra ``robe[tensorboard]``.
    """

    __pydantic_config__ = _STRICT

    epochs: PositiveInt = 10
    max_steps: PositiveInt | None = None
    batch_size: PositiveInt = 2048
    eval_batch_size: PositiveInt = 16384
    shuffle_rows: Annotated[int, Field(ge=4096)] = 1 << 20
    optimizer: Literal["adam", "sgd", "adagrad"] = "adam"
    learning_rate: PositiveFloat = 1e-3
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    embedding_optimizer: Literal["adam", "sgd", "adagrad"] | None = None
    embedding_learning_rate: PositiveFloat | None = None
    base_batch_size: PositiveInt | None = None
    batch_scaling: Literal["linear", "sqrt"] = "linear"
    warmup_steps: NonNegativeInt = 0
    learning_rate_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    decay_start_step: NonNegativeInt | None = None
    decay_steps: PositiveInt | None = None
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] | None = None
    clip_norm: PositiveFloat | None = None
    autocast: Literal["none", "bfloat16"] = "none"
    sparse_gradients: bool | Literal["auto"] = "auto"
    weight_decay: NonNegativeFloat = 0.0
    weight_decay_on: tuple[str, ...] = ("*",)
    embedding_weight_decay: NonNegativeFloat | None = None
    embedding_decay_on: Literal["parameters", "vectors"] = "parameters"
    eval_every: PositiveInt | None = None
    early_stop_patience: PositiveInt | None = 2
    target_auc: Annotated[float, Field(gt=0, le=1)] | None = None
    checkpoint_every: PositiveInt | None = None
    log_every: PositiveInt = 100
    seed: NonNegativeInt = 0
    device: str = "auto"
    threads: PositiveInt | None = None
    tensorboard: bool = False


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a training run; the sections of the configuration file."""

    __pydantic_config__ = _STRICT

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


_SECTIONS = {"data": DataConfig, "model": ModelConfig, "embedding": EmbeddingConfig, "train": TrainConfig}
_ADAPTER = TypeAdapter(RunConfig)


def load_config(
    path: Path | str | RunConfig | None = None, overrides: Mapping[str, Any] | Iterable[str] = ()
) -> RunConfig:
    """Reads a configuration: overrides win over the file, the file over the defaults.

    A layer that sets one of ``embedding.compression``, ``num_slots`` and ``memory`` replaces the size set below it,
    and one that sets ``embedding.kind`` to ``full`` removes it.

    Args:
        path: YAML or JSON file with the sections ``data``, ``model``, ``embedding``, ``train``; or a configuration,
            such as a recipe's; None for defaults.
        overrides: ``{"train.epochs": 5}``, or texts ``"train.epochs=5"`` whose values are read as YAML.

    Returns:
        The checked configuration.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read as YAML, a key is unknown (the nearest known one is named), or a value
            has the wrong type or lies outside its range.
    """
    merged: dict[str, dict[str, Any]] = {}
    below = to_dict(path) if isinstance(path, RunConfig) else _read_file(path)
    for source, layer in ((str(path), below), ("configuration", _read_overrides(overrides))):
        _check_keys(source, layer)
        _merge(merged, layer)
    return _validate(merged)


def resolve(config: RunConfig) -> RunConfig:
    """The same configuration, checked again, with every default that depends on another key filled in."""
    config = _validate(to_dict(config))
    embedding, train, model = config.embedding, config.train, _resolve_model(config.model)
    if embedding.kind != "full" and not _sizes(embedding):
        embedding = dataclasses.replace(embedding, compression=DEFAULT_COMPRESSION)
    if embedding.seed is None:
        embedding = dataclasses.replace(embedding, seed=train.seed)
    if train.embedding_weight_decay is None:
        train = dataclasses.replace(train, embedding_weight_decay=train.weight_decay)
    if train.embedding_optimizer is None:
        train = dataclasses.replace(train, embedding_optimizer=train.optimizer)
    obstacle = _why_not_sparse(train, config.model)
    if train.sparse_gradients == "auto":
        train = dataclasses.replace(train, sparse_gradients=embedding.kind == "full" and obstacle is None)
    elif train.sparse_gradients and embedding.kind == "robe":
        raise ValueError(
            "train.sparse_gradients: a ROBE array is small and its gradient dense; expected false or 'auto', got true"
        )
    elif train.sparse_gradients and obstacle is not None:
        raise ValueError(obstacle)
    if train.batch_scaling != "linear" and train.base_batch_size is None:
        raise ValueError(
            f"train.batch_scaling: {train.batch_scaling!r} scales from train.base_batch_size, which is not set; set it"
        )
    if train.momentum and "sgd" not in (train.optimizer, train.embedding_optimizer):
        raise ValueError(
            f"train.momentum: only 'sgd' has it, got {train.momentum} with {train.optimizer!r}; set it to 0"
        )
    if (train.decay_start_step is None) != (train.decay_steps is None):
        raise ValueError(
            "train.decay_start_step, train.decay_steps: expected both or neither, got "
            f"{train.decay_start_step} and {train.decay_steps}"
        )
    data = dataclasses.replace(config.data, path=str(Path(config.data.path).expanduser().resolve()))
    return dataclasses.replace(config, data=data, model=model, embedding=embedding, train=train)


def _why_not_sparse(train: TrainConfig, model: ModelConfig) -> str | None:
    """What sparse gradients cannot do, and the remedy; None if nothing asks for it."""
    off = "set train.sparse_gradients=false"
    if train.embedding_weight_decay and train.embedding_decay_on == "parameters":
        return (
            f"train.embedding_weight_decay: expected 0 with sparse gradients, got {train.embedding_weight_decay}: a "
            f"penalty on all parameters touches every row; {off}, or train.embedding_decay_on=vectors"
        )
    if train.clip_norm is not None:
        return f"train.clip_norm: torch clips no sparse gradients, got {train.clip_norm}; {off}"
    if train.momentum and train.embedding_optimizer == "sgd":
        return f"train.momentum: expected 0 with sparse gradients, got {train.momentum}; {off}"
    if model.pooling == "max":
        return "train.sparse_gradients: torch has none for model.pooling='max'; expected false, got true"
    return None


def model_options(model: ModelConfig) -> dict[str, Any]:
    """The arguments that ``model`` gives to its class: the keys that are set and belong to that model."""
    shared = ("name", "embedding_dim", "pooling")
    return {
        f.name: getattr(model, f.name)
        for f in dataclasses.fields(model)
        if f.name not in shared and getattr(model, f.name) is not None
    }


def _resolve_model(model: ModelConfig) -> ModelConfig:
    """The model's own defaults in place of None; ValueError for a key that it does not know."""
    from robe.models import MODELS

    known = {
        name: parameter.default
        for name, parameter in inspect.signature(MODELS[model.name]).parameters.items()
        if name not in ("embedding", "num_dense")
    }
    given = model_options(model)
    if unknown := [key for key in given if key not in known]:
        raise ValueError(
            f"model.{unknown[0]}: {model.name!r} has no such option, got {given[unknown[0]]!r}; it has {sorted(known)}"
        )
    if "mlp_init_std" in known and known["mlp_init_std"] is None:
        known["mlp_init_std"] = "torch"
    return dataclasses.replace(model, **(known | given))


def to_dict(config: RunConfig) -> dict[str, dict[str, Any]]:
    """The configuration as plain dicts and lists, in the form of the file."""
    plain: dict[str, dict[str, Any]] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def to_yaml(config: RunConfig) -> str:
    """The configuration as YAML text that ``load_config`` reads."""
    return str(yaml.safe_dump(to_dict(config), sort_keys=False, default_flow_style=None))


def differences(old: RunConfig, new: RunConfig) -> list[str]:
    """Lines such as ``train.seed: 0 -> 1`` for every key in which two configurations differ, defaults filled in."""
    a, b = to_dict(resolve(old)), to_dict(resolve(new))
    return [
        f"{section}.{key}: {a[section][key]!r} -> {b[section][key]!r}"
        for section in a
        for key in a[section]
        if a[section][key] != b[section][key]
    ]


def parse_overrides(texts: Iterable[str]) -> dict[str, Any]:
    """``["train.epochs=5"]`` as ``{"train.epochs": 5}``; values are YAML, ``none`` is None, the last one wins."""
    return dict(_read_override(text) for text in ([texts] if isinstance(texts, str) else texts))


def require_file(path: Path | str) -> None:
    """Raises FileNotFoundError unless ``path`` is a file."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: expected a YAML or JSON configuration file, found none")


def _sizes(embedding: EmbeddingConfig) -> dict[str, Any]:
    return {key: getattr(embedding, key) for key in SIZES if getattr(embedding, key) is not None}


def _read_file(path: Path | str | None) -> dict[str, Any]:
    if path is None:
        return {}
    require_file(path)
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))  # JSON is YAML
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected a YAML or JSON configuration: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected sections {sorted(_SECTIONS)} at the top, got {content!r:.40}")  # noqa: TRY004
    return content


def _read_overrides(overrides: Mapping[str, Any] | Iterable[str]) -> dict[str, Any]:
    if not isinstance(overrides, Mapping):
        overrides = parse_overrides(overrides)
    layer: dict[str, Any] = {}
    for dotted, value in overrides.items():
        section, dot, key = dotted.partition(".")
        if not dot:
            known = [f"{s}.{f.name}" for s, cls in _SECTIONS.items() for f in dataclasses.fields(cls)]
            raise ValueError(f"{dotted!r}: expected section.key such as train.epochs, {nearest(dotted, known)}")
        layer.setdefault(section, {})[key] = value
    return layer


def _read_override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r}: expected section.key=value such as train.epochs=5")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError(f"{text!r}: the value cannot be read as YAML: {' '.join(str(error).split())}") from error
    key = key.strip()
    return key, None if parsed == "none" and key not in _NONE_IS_A_VALUE else parsed


def _check_keys(source: str, layer: Mapping[str, Any]) -> None:
    for section, values in layer.items():
        if section not in _SECTIONS:
            raise ValueError(f"{source}: unknown section {section!r}; {nearest(str(section), _SECTIONS)}")
        if values is None:
            continue
        if not isinstance(values, Mapping):
            raise ValueError(f"{source}: {section}: expected keys and values, got {values!r}")  # noqa: TRY004
        known = [f.name for f in dataclasses.fields(_SECTIONS[section])]
        for key in values:
            if key not in known:
                raise ValueError(f"{source}: unknown key {section}.{key}; {nearest(str(key), known)}")


def _merge(merged: dict[str, dict[str, Any]], layer: Mapping[str, Any]) -> None:
    embedding = layer.get("embedding") or {}
    if embedding.get("kind") == "full" or any(embedding.get(key) is not None for key in SIZES):
        for key in SIZES:
            merged.get("embedding", {}).pop(key, None)
    for section, values in layer.items():
        merged.setdefault(section, {}).update(values or {})


def _validate(values: Mapping[str, Any]) -> RunConfig:
    try:
        config = _ADAPTER.validate_python(values)
    except ValidationError as error:
        expected: dict[tuple[str, str], list[str]] = {}  # a union of types has one error for each of them
        for e in error.errors():
            key = ".".join(str(part) for part in e["loc"][:2])
            expected.setdefault((key, repr(e["input"])), []).append(e["msg"].removeprefix("Input should be "))
        problems = [f"{key}: expected {' or '.join(wanted)}, got {got}" for (key, got), wanted in expected.items()]
        raise ValueError("configuration: " + "; ".join(problems)) from None
    sizes = _sizes(config.embedding)
    if config.embedding.kind == "full" and sizes:
        raise ValueError(f"embedding: full tables have no size to choose, got {sizes}: remove it or change the kind")
    if len(sizes) > 1:
        raise ValueError(f"embedding: expected at most one of {', '.join(SIZES)}, got {sizes}")
    return config
