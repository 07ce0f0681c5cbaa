"""From configuration and data to a model. To each leaf is added what only the data tells: how many columns, which
categories, how many classes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np
from torch import nn

from mmtab.config.parts import TARGET, resolve_target
from mmtab.config.types import PARTS, RunConfig
from mmtab.data.pictures import ImageSpec
from mmtab.data.schema import ColumnType, Schema, TaskKind
from mmtab.data.streams import Stream
from mmtab.data.table import Table
from mmtab.features.backbones import Backbones, ImageBackbone, TextBackbone, TextSpec
from mmtab.features.backbones.pretrained import MINILM, text_positions
from mmtab.features.backbones.text import LEAST_LENGTH
from mmtab.features.encoded import encoded_columns
from mmtab.features.preprocess import Fitted
from mmtab.features.text import cross_columns, fitting_length, text_columns
from mmtab.model.base import LinearBase
from mmtab.model.encoders import ColumnEncoder
from mmtab.model.feature_tokenizer import RowTokenizer
from mmtab.model.matcher import Matcher, MatcherParts, RelationViews
from mmtab.model.row_model import RowModel
from mmtab.model.towers import SearchTowers
from mmtab.training.regression import RegressionTask
from mmtab.training.tasks import KWayTask, PairTask, Task
from mmtab.utils.errors import ConfigError

# Settings of a leaf that say how cells become input, and those of the network that reads it.
READERS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "text": (TextSpec.load, TextBackbone),
    "pair_head.cross": (TextSpec.load, TextBackbone),
    "image": (ImageSpec, ImageBackbone),
}
# What is added to the settings of a leaf.
ADDED = {"folder", "spec", "pretrained", "crop_pct", "interpolation"}
MAX_BASE_CLASSES = 1_000
MAX_LENGTHS = {True: 256, False: 192}  # of text.max_length=auto, by whether the network is frozen
MIN_TOWER_MATCHES = 100
NO_BACKBONES = Backbones(None, None)


# --- leaves ----------------------------------------------------------------------------------------------------------


def knobs(target: Callable[..., Any], where: str) -> dict[str, Any]:
    """The settings that a leaf of this target may have, with their types: those of its constructor and, for text and
    pictures, of what reads them."""
    known = _settings_of(target)
    for reader in _readers(target, where):
        known |= {name: kind for name, kind in _settings_of(reader).items() if name not in ADDED}
    return known


def part(leaf: dict[str, Any], where: str) -> Callable[..., Any]:
    """A leaf as a callable; raises ConfigError for a setting that its target does not have."""
    settings = {key: value for key, value in leaf.items() if not key.startswith("_")}
    target = resolve_target(leaf.get(TARGET), where)
    known = knobs(target, where)
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise ConfigError(f"{where}.{unknown[0]}: no such setting; {target.__name__} has {', '.join(known)}")
    for key, value in settings.items():
        if not _fits(value, known[key]):
            raise ConfigError(f"{where}.{key}={value}: expected {_written(known[key])}")
        if target.__module__.startswith("mmtab.") and (allowed := _violated(key, value)):
            raise ConfigError(f"{where}.{key}={value}: expected {allowed}")
    own = _chosen(settings, _settings_of(target))
    if _readers(target, where):
        own.pop("backbone", None)  # a name, of which the reader makes what the target is given
    return functools.partial(target, **own)


def _readers(target: Callable[..., Any], where: str) -> Iterable[Callable[..., Any]]:
    """What the settings of a leaf of text or pictures are for beside its target: a spec and, where the target takes a
    backbone, a network."""
    spec, network = READERS.get(where, (None, None))
    if spec is None or network is None:
        return ()
    return (spec, network) if "backbone" in inspect.signature(target).parameters else (spec,)


def _settings_of(target: Any) -> dict[str, Any]:
    """The names of the arguments of a class or function, with their types."""
    hints = get_type_hints(target.__init__ if inspect.isclass(target) else target)
    return {name: hints.get(name) for name in inspect.signature(target).parameters}


def _chosen(settings: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: settings[name] for name in names if name in settings}


def _fits(value: object, kind: Any) -> bool:
    """Whether a setting is of its annotated kind; kinds that yaml has no scalar for are left to the target."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is UnionType:
        return any(_fits(value, option) for option in get_args(kind))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is kind if kind in (int, bool, str, NoneType) else True


def _violated(key: str, value: object) -> str:
    """The bounds of a setting, where it is outside of them: probabilities, and what is counted."""
    if key.endswith("dropout") and isinstance(value, int | float):
        return "" if 0 <= value < 1 else "at least 0, and below 1"
    counted = type(value) is int and not key.endswith("_layers")
    return "at least 1" if (counted or key == "n_layers") and isinstance(value, int) and value < 1 else ""


def _written(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")


def check_settings(config: RunConfig) -> None:
    """Raise ConfigError for a setting that no leaf has, also of parts that this dataset will not need."""
    leaves = {name: getattr(config, name) for name in PARTS}
    leaves |= {"base": config.base, "search": config.search, "regression_head.head": config.regression_head.head}
    leaves |= {"kway_head.head": config.kway_head.head, "pair_head.cross": _cross_settings(config)}
    leaves |= {
        f"pair_head.{name}": getattr(config.pair_head, name) for name in ("model", "tower", "joint", "compare", "base")
    }
    for where, leaf in leaves.items():
        if leaf is not None:
            part(leaf | {"n_tuned_layers": None} if leaf.get("n_tuned_layers") == "auto" else leaf, where)


# --- models ----------------------------------------------------------------------------------------------------------


class Network(NamedTuple):
    """A model, and what reads text and pictures for it."""

    model: RowModel | Matcher
    backbones: Backbones


def build_model(config: RunConfig, schema: Schema, fitted: Fitted, folder: Path | None = None) -> Network:
    """``folder``: a run folder whose checkpoint will be loaded, so no pretrained weights are read."""
    encoders, backbones = _encoders(config, schema, fitted, folder)
    tokenizer = RowTokenizer(encoders, config.d_model, config.token_dropout)
    fusion: nn.Module = part(config.fusion, "fusion")()

    def another() -> tuple[RowTokenizer, nn.Module]:  # drawn after what one model has, which is the same alone
        encoders, _ = _encoders(config, schema, fitted, folder, backbones)
        return RowTokenizer(encoders, config.d_model, config.token_dropout), part(config.fusion, "fusion")()

    if schema.of_rows:
        head, base = _row_head(config, fitted), _base(config, schema, fitted, backbones)
        heads = head(), base, None if base is None else head()
        models = range(config.n_members - 1)
        others = [RowModel(*another(), head(), None, None if base is None else head()) for _ in models]
        return Network(RowModel(tokenizer, fusion, *heads, others), backbones)
    relations = _relation_views(config, schema, fitted, encoders)
    parts, cross = _matcher_parts(config, schema, fitted, folder)
    parts = replace(parts, search=_search(config, schema, fitted, backbones))
    build = functools.partial(part(config.pair_head.model, "pair_head.model"), relations=relations)
    further: dict[str, Any] = {}
    if config.n_members > 1:  # of its own, each has what learns by the pairs alone
        own = [(*another(), _pair_parts(config, schema, fitted)) for _ in range(config.n_members - 1)]
        further["others"] = [
            build(tokenizer=t, fusion=f, parts=replace(p, cross=parts.cross, base=parts.base)) for t, f, p in own
        ]
    model = build(tokenizer=tokenizer, fusion=fusion, parts=parts, **further)
    return Network(model, Backbones(backbones.text, backbones.image, cross))


def _encoders(
    config: RunConfig, schema: Schema, fitted: Fitted, folder: Path | None, given: Backbones = NO_BACKBONES
) -> tuple[dict[str, ColumnEncoder], Backbones]:
    """By column type, of the types that the table has; in an order that the random numbers of a seed depend on.
    ``given``: what reads text and pictures, where it is there already."""
    preprocessor, encoders, text, image = fitted.preprocessor, dict[str, ColumnEncoder](), None, None
    n_texts, n_images = len(text_columns(schema, _also(config.text))), len(schema.of_type(ColumnType.IMAGE))
    if n_texts:
        copy = None if folder is None else folder / "text_backbone"
        encoders["text"], text = build_text_encoder(config.text, "text", n_texts, copy, given.text)
    if n_images:
        encoders["image"], image = build_image_encoder(config.image, n_images, folder is None, given.image)
    if preprocessor.scalers_:
        encoders["numeric"] = part(config.numeric, "numeric")(n_columns=len(preprocessor.scalers_))
    if preprocessor.coders_:
        n_ids = [coder.n_ids for coder in preprocessor.coders_.values()]
        encoders["categorical"] = part(config.categorical, "categorical")(n_ids=n_ids)
    return encoders, Backbones(text, image)


def _row_head(config: RunConfig, fitted: Fitted) -> Callable[..., Any]:
    if fitted.n_classes is None:
        return part(config.regression_head.head, "regression_head.head")
    return functools.partial(part(config.kway_head.head, "kway_head.head"), n_classes=fitted.n_classes)


def takes_base(config: RunConfig, n_classes: int | None) -> bool:
    """Whether a model of rows has a base: one is asked for, and there are not too many classes for it to hold."""
    few = n_classes is None or (n_classes <= MAX_BASE_CLASSES and config.kway_head.n_sampled is None)
    return config.base is not None and few


def _base(config: RunConfig, schema: Schema, fitted: Fitted, backbones: Backbones) -> LinearBase | None:
    if config.base is None or not takes_base(config, fitted.n_classes):
        return None
    preprocessor = fitted.preprocessor
    return part(config.base, "base")(
        n_classes=fitted.n_classes,
        n_numeric=len(preprocessor.scalers_),
        n_ids=[coder.n_ids for coder in preprocessor.coders_.values()],
        n_texts=len(columns_of_text(config, schema)),
        n_images=len(schema.of_type(ColumnType.IMAGE)),
        backbones=backbones,
        n_ngrams=0 if fitted.lexicon is None else fitted.lexicon.n_ngrams,
    )


def build_text_encoder(
    leaf: dict[str, Any],
    where: str,
    n_columns: int,
    folder: Path | None = None,
    given: TextBackbone | TextSpec | None = None,
) -> tuple[ColumnEncoder, TextBackbone | TextSpec]:
    """``folder``: a run's copy of the backbone's architecture and tokenizer. ``given``: the backbone, or its spec."""
    encoder = part(leaf, where)
    if given is not None:
        return encoder(n_columns=n_columns, **_backbone(given)), given
    spec = TextSpec.load(**_chosen(leaf, _settings_of(TextSpec.load)), folder=folder)
    if TextBackbone not in _readers(resolve_target(leaf.get(TARGET), where), where):
        return encoder(n_columns=n_columns), spec
    backbone = TextBackbone(spec, **_chosen(leaf, _settings_of(TextBackbone)), folder=folder)
    return encoder(n_columns=n_columns, backbone=backbone), backbone


def build_image_encoder(
    leaf: dict[str, Any], n_columns: int, pretrained: bool = True, given: ImageBackbone | ImageSpec | None = None
) -> tuple[ColumnEncoder, ImageBackbone | ImageSpec]:
    encoder = part(leaf, "image")
    if given is not None:
        return encoder(n_columns=n_columns, **_backbone(given)), given
    if ImageBackbone not in _readers(resolve_target(leaf.get(TARGET), "image"), "image"):
        return encoder(n_columns=n_columns), ImageSpec(**_chosen(leaf, _settings_of(ImageSpec)))
    backbone = ImageBackbone(**_chosen(leaf, _settings_of(ImageBackbone)), pretrained=pretrained)
    return encoder(n_columns=n_columns, backbone=backbone), backbone


def _backbone(given: object) -> dict[str, object]:
    """What an encoder takes of it: nothing of a spec."""
    return {"backbone": given} if isinstance(given, TextBackbone | ImageBackbone) else {}


def _also(settings: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(settings.get("also") or ())


def columns_of_text(config: RunConfig, schema: Schema) -> list[str]:
    """Columns that the text encoder reads."""
    return text_columns(schema, _also(config.text))


def with_text_length(config: RunConfig, schema: Schema, table: Table | Stream) -> RunConfig:
    """With the length that the text of ``table`` needs in place of ``text.max_length=auto``."""
    if config.text.get("max_length") != "auto":
        return config
    columns = columns_of_text(config, schema)
    length = LEAST_LENGTH
    if columns:
        chosen = _chosen(config.text, _settings_of(TextSpec.load))
        limit = MAX_LENGTHS[config.text.get("n_tuned_layers") == 0]
        limit = min(limit, text_positions(chosen.get("backbone", MINILM)) or limit)
        length = fitting_length(table, columns, TextSpec.load(**chosen | {"max_length": limit}))
    return replace(config, text=config.text | {"max_length": length})


def _cross_settings(config: RunConfig) -> dict[str, Any] | None:
    """Those of the text encoder that reads both rows of a pair, or None. ``n_tuned_layers: null`` and ``apart``, which
    the leaves of pair_head have, say nothing to an encoder that wraps no backbone."""
    if not config.pair_head.cross_text:
        return None
    settings = config.text | config.pair_head.cross
    if TextBackbone not in _readers(resolve_target(settings.get(TARGET), "text"), "text"):
        settings.pop("apart", None)
        if settings.get("n_tuned_layers", 0) is None:
            del settings["n_tuned_layers"]
    return settings


def _relation_views(
    config: RunConfig, schema: Schema, fitted: Fitted, encoders: Mapping[str, ColumnEncoder]
) -> RelationViews:
    columns = encoded_columns(schema, fitted.preprocessor, _also(config.text))
    owners = tuple(
        name for kind, encoder in encoders.items() for name in columns[kind] for _ in range(encoder.tokens_per_column)
    )
    ignored = schema.relations.values()
    reads = [[name not in columns for name in owners] for columns in ignored]
    if not config.pair_head.compare:
        return RelationViews(owners, reads)
    assert fitted.similarity is not None
    groups = [name for name, _ in fitted.similarity.groups]
    return RelationViews(owners, reads, [[name not in columns for name in groups] for columns in ignored])


def _matcher_parts(
    config: RunConfig, schema: Schema, fitted: Fitted, folder: Path | None
) -> tuple[MatcherParts, TextBackbone | TextSpec | None]:
    """In an order that the random numbers of a seed depend on."""
    head, parts, cross, backbone = config.pair_head, _pair_parts(config, schema, fitted), None, None
    settings = _cross_settings(config)
    if settings is not None:
        columns = cross_columns(schema, _also(settings))
        if columns:
            copy = None if folder is None else folder / "cross_backbone"
            cross, backbone = build_text_encoder(settings, "pair_head.cross", len(columns), copy)
    parts = replace(parts, cross=cross)
    if not head.base or fitted.similarity is None or parts.similarity is None:
        return parts, backbone
    owners, ignored = fitted.similarity.owners, schema.relations.values()
    base = part(head.base, "pair_head.base")(reads=[[name not in columns for name in owners] for columns in ignored])
    return replace(parts, base=base), backbone


def _pair_parts(config: RunConfig, schema: Schema, fitted: Fitted) -> MatcherParts:
    """Those that learn by the pairs alone."""
    head, n_relations = config.pair_head, len(schema.relations)
    tower = part(head.tower, "pair_head.tower")(n_relations=n_relations) if head.tower else None
    joint = part(head.joint, "pair_head.joint")(n_relations=n_relations) if head.joint else None
    if not head.compare:
        return MatcherParts(tower, joint)
    assert fitted.similarity is not None
    groups = [n for _, n in fitted.similarity.groups]
    similarity = part(head.compare, "pair_head.compare")(groups=groups, n_relations=n_relations)
    return MatcherParts(tower, joint, similarity=similarity)


def _search(config: RunConfig, schema: Schema, fitted: Fitted, backbones: Backbones) -> SearchTowers | None:
    """None where there are too few training matches to learn from."""
    if config.search is None or fitted.n_matches < MIN_TOWER_MATCHES:
        return None
    columns, ignored = encoded_columns(schema, fitted.preprocessor, _also(config.text)), schema.ignored_by_some
    return part(config.search, "search")(
        n_ids=[coder.n_ids for coder in fitted.preprocessor.coders_.values()],
        backbones=backbones,
        hidden={kind: [name in ignored for name in names] for kind, names in columns.items()},
        two_sides=set(schema.absent.get("left", ())) != set(schema.absent.get("right", ())),
    )


def build_task(config: RunConfig, schema: Schema, fitted: Fitted, labels: np.ndarray | None = None) -> Task:
    """``labels``: of training, for class weights."""
    if schema.task is TaskKind.KWAY:
        assert fitted.preprocessor.labels_ is not None
        k, head = len(fitted.preprocessor.labels_.classes_), config.kway_head
        if head.n_sampled is not None and not 1 <= head.n_sampled < k:
            raise ConfigError(
                f"kway_head.n_sampled={head.n_sampled}: expected null or 1 to {k - 1}, "
                f"for {schema.name} has {k} classes"
            )
        counts = np.bincount(labels, minlength=k) if labels is not None and head.class_weights else None
        return KWayTask(k, head.label_smoothing, counts, schema.metric, head.n_sampled)
    if schema.task is TaskKind.REGRESSION:
        assert fitted.target is not None
        return RegressionTask(fitted.target, config.regression_head.loss, schema.metric)
    return PairTask(list(schema.relations), config.pair_head.pos_weight, schema.metric)
