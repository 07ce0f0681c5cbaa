"""From configuration and data to a model: the one caller of hydra's instantiate. It adds to each leaf what only the
data knows: how many columns, which categories, how many classes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import hydra.utils
import numpy as np
from torch import nn

from mmtab.config.types import PARTS, RunConfig
from mmtab.data.schema import ColumnType, Schema, TaskKind
from mmtab.features.encoded import encoded_columns, text_columns
from mmtab.features.fitted import Fitted
from mmtab.model.encoders import ColumnEncoder
from mmtab.model.feature_tokenizer import RowTokenizer
from mmtab.model.models import KWayModel
from mmtab.training.tasks import KWayTask, PairTask, Task
from mmtab.utils.errors import ConfigError


def part(leaf: dict[str, Any], where: str) -> Callable[..., Any]:
    """A leaf as a callable; raises ConfigError for a setting that its target does not have."""
    settings = {key: value for key, value in leaf.items() if not key.startswith("_")}
    try:
        target = hydra.utils.get_object(leaf["_target_"])
    except (KeyError, ImportError, ValueError) as error:
        raise ConfigError(f"{where}: cannot find {leaf.get('_target_', 'its _target_')}") from error
    known = inspect.signature(target).parameters
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise ConfigError(f"{where}.{unknown[0]}: no such setting; {target.__name__} has {', '.join(known)}")
    hints = get_type_hints(target.__init__)
    for key, value in settings.items():
        if not _fits(value, hints.get(key)):
            raise ConfigError(f"{where}.{key}={value}: expected {known[key].annotation}")
    return hydra.utils.instantiate({**leaf, "_partial_": True}, _convert_="object")


def _fits(value: object, kind: Any) -> bool:
    """Whether a setting is of its annotated kind; kinds that yaml has no scalar for are left to the target."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is UnionType:
        return any(_fits(value, each) for each in get_args(kind))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is kind if kind in (int, bool, str, NoneType) else True


def check_settings(config: RunConfig) -> None:
    """Raise ConfigError for a setting that no leaf knows, also of parts that this dataset will not need."""
    leaves = {name: getattr(config, name) for name in PARTS}
    leaves |= {"kway_head.head": config.kway_head.head, "pair_head.cross": cross_settings(config)}
    leaves |= {f"pair_head.{name}": getattr(config.pair_head, name) for name in ("model", "tower", "joint", "compare")}
    for where, leaf in leaves.items():
        if leaf is not None:
            part(leaf | {"n_tuned_layers": None} if leaf.get("n_tuned_layers") == "auto" else leaf, where)


def build_model(config: RunConfig, schema: Schema, fitted: Fitted, folder: Path | None = None) -> nn.Module:
    """The whole network. ``folder``: a run folder whose checkpoint will be loaded, so no pretrained weights are read."""
    preprocessor = fitted.preprocessor
    encoders: dict[str, ColumnEncoder] = {}
    texts = text_columns(schema, tuple(config.text.get("also") or ()))
    if texts:
        extra = {} if folder is None else {"config_folder": folder / "text_backbone"}
        encoders["text"] = part(config.text, "text")(n_columns=len(texts), **extra)
    images = schema.of_type(ColumnType.IMAGE)
    if images:
        encoders["image"] = part(config.image, "image")(n_columns=len(images), pretrained=folder is None)
    if preprocessor.scalers_:
        encoders["numeric"] = part(config.numeric, "numeric")(n_columns=len(preprocessor.scalers_))
    if preprocessor.coders_:
        encoders["categorical"] = part(config.categorical, "categorical")(
            n_ids=[c.n_ids for c in preprocessor.coders_.values()]
        )
    tokenizer = RowTokenizer(encoders, config.d_model, config.token_dropout)
    fusion = part(config.fusion, "fusion")()
    if schema.task is TaskKind.KWAY:
        assert preprocessor.labels_ is not None
        head = part(config.kway_head.head, "kway_head.head")(n_classes=len(preprocessor.labels_.classes_))
        return KWayModel(tokenizer, fusion, head)
    return _pair_model(config, schema, fitted, tokenizer, fusion, folder)


def cross_settings(config: RunConfig) -> dict[str, Any] | None:
    """Those of the text encoder that reads both rows of a pair, or None."""
    return config.text | config.pair_head.cross if config.pair_head.cross_text else None


def cross_columns(config: RunConfig, schema: Schema) -> list[str]:
    """Text that both rows of a pair are read in one sequence of: what every relation minds."""
    settings = cross_settings(config)
    found = [] if settings is None else text_columns(schema, tuple(settings.get("also") or ()))
    return [name for name in found if name not in schema.ignored_by_some]


def _pair_model(
    config: RunConfig, schema: Schema, fitted: Fitted, tokenizer: RowTokenizer, fusion: nn.Module, folder: Path | None
) -> nn.Module:
    head, relations = config.pair_head, schema.relations
    columns = encoded_columns(schema, fitted.preprocessor, tuple(config.text.get("also") or ()))
    owners = [
        name
        for kind, encoder in tokenizer.encoders.items()
        for name in columns[kind]
        for _ in range(encoder.tokens_per_column)  # type: ignore[arg-type]
    ]
    parts: dict[str, Any] = {
        "owners": owners,
        "reads": [[name not in ignored for name in owners] for ignored in relations.values()],
    }
    for name in ("tower", "joint"):
        if getattr(head, name):
            parts[name] = part(getattr(head, name), f"pair_head.{name}")(n_relations=len(relations))
    if head.compare:
        assert fitted.comparison is not None
        groups = fitted.comparison.groups
        parts["compares"] = [[name not in ignored for name, _ in groups] for ignored in relations.values()]
        parts["comparison"] = part(head.compare, "pair_head.compare")(
            groups=[n for _, n in groups], n_relations=len(relations)
        )
    settings, crossed = cross_settings(config), cross_columns(config, schema)
    if settings is not None and crossed:
        extra = {} if folder is None else {"config_folder": folder / "cross_backbone"}
        parts["cross"] = part(settings, "pair_head.cross")(n_columns=len(crossed), **extra)
    return part(head.model, "pair_head.model")(tokenizer=tokenizer, fusion=fusion, **parts)


def build_task(config: RunConfig, schema: Schema, fitted: Fitted, labels: np.ndarray | None = None) -> Task:
    """``labels``: of training, for class weights."""
    if schema.task is TaskKind.KWAY:
        assert fitted.preprocessor.labels_ is not None
        k, head = len(fitted.preprocessor.labels_.classes_), config.kway_head
        if head.n_sampled is not None and not 1 <= head.n_sampled < k:
            raise ConfigError(
                f"kway_head.n_sampled={head.n_sampled}: expected null or 1 to {k - 1}, for {schema.name} has {k} classes"
            )
        counts = np.bincount(labels, minlength=k) if labels is not None and head.class_weights else None
        return KWayTask(k, head.label_smoothing, counts, schema.metric, head.n_sampled)
    return PairTask(list(schema.relations), config.pair_head.pos_weight, schema.metric)


def encoder_of(model: nn.Module, kind: str) -> Any:
    """The model's encoder of one column type, or None."""
    encoders: Any = model.tokenizer.encoders  # type: ignore[union-attr]
    return dict(encoders.items()).get(kind)
