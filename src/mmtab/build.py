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

from mmtab.config import RunConfig
from mmtab.datamodule import text_columns
from mmtab.encoders import ColumnEncoder
from mmtab.errors import ConfigError
from mmtab.fitted import Fitted
from mmtab.models import KWayModel
from mmtab.row_tokenizer import RowTokenizer
from mmtab.schema import ColumnType, Schema, TaskKind
from mmtab.tasks import KWayTask, PairTask, Task


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
    leaves = {name: getattr(config, name) for name in ("text", "image", "numeric", "categorical", "fusion")}
    leaves |= {"kway_head.head": config.kway_head.head, "pair_head.model": config.pair_head.model}
    leaves |= {"pair_head.head": config.pair_head.head, "pair_head.compare": config.pair_head.compare}
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
    head = part(config.pair_head.head, "pair_head.head")()
    comparing: dict[str, Any] = {}
    if config.pair_head.compare:
        assert fitted.comparison is not None
        columns = {
            "text": texts,
            "image": images,
            "numeric": list(preprocessor.scalers_),
            "categorical": list(preprocessor.coders_),
        }
        owners = [
            name.split(":")[0]
            for kind in encoders
            for name in columns[kind]
            for _ in range(encoders[kind].tokens_per_column)
        ]
        comparing["shared"] = [place for place, owner in enumerate(owners) if owner in fitted.shared]
        comparing["comparison"] = part(config.pair_head.compare, "pair_head.compare")(
            groups=[n for _, n in fitted.comparison.groups]
        )
    return part(config.pair_head.model, "pair_head.model")(tokenizer=tokenizer, fusion=fusion, head=head, **comparing)


def build_task(config: RunConfig, schema: Schema, fitted: Fitted, labels: np.ndarray | None = None) -> Task:
    """``labels``: of training, for class weights."""
    if schema.task is TaskKind.KWAY:
        assert fitted.preprocessor.labels_ is not None
        k = len(fitted.preprocessor.labels_.classes_)
        counts = np.bincount(labels, minlength=k) if labels is not None and config.kway_head.class_weights else None
        return KWayTask(k, config.kway_head.label_smoothing, counts, schema.metric)
    return PairTask(config.pair_head.pos_weight, metric=schema.metric)


def encoder_of(model: nn.Module, kind: str) -> Any:
    """The model's encoder of one column type, or None."""
    encoders: Any = model.tokenizer.encoders  # type: ignore[union-attr]
    return dict(encoders.items()).get(kind)
