"""How much of each row's text a frozen network can read on this machine in the time given."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from mmtab.config.types import RunConfig
from mmtab.data import table as tables
from mmtab.data.pairs import read_records
from mmtab.data.schema import Schema
from mmtab.data.streams import Stream
from mmtab.data.table import Table
from mmtab.features.backbones import TextBackbone
from mmtab.features.cache import BATCH, FeatureCache
from mmtab.features.text import Sequences, tokenize
from mmtab.runs.inputs import store_of
from mmtab.runs.setup import compute_of, described, settled
from mmtab.training.build import build_text_encoder, columns_of_text
from mmtab.utils.atomic import write_json
from mmtab.utils.machine import to_evaluate, usable_cores
from mmtab.utils.plain import number, read_plain, record
from mmtab.utils.progress import say

SHARE = 0.3  # of the time, that a network may take to read text: the base and fusion need the rest
SHORTEST, STEP = 16, 8  # tokens of a row, special ones too, at least, and in steps of
LENGTHS_RULE = record(dict.fromkeys(["asked", "taken"], number(2, 1 << 20, whole=True)))


def paced(config: RunConfig, step: RunConfig, kept: Path) -> tuple[RunConfig, dict[str, int] | None]:
    """With ``text.max_length`` lowered to what is read in SHARE of ``trainer.max_minutes``, unless that is stored
    already; and what was asked and taken, None where no network reads text or time has no limit. n-grams of the base
    read the rest of a text anyway.

    step: ``config`` as the first step of a ladder trains it
    kept: a file that keeps the choice, for a call that goes on with a killed one's
    """
    minutes, choice = config.trainer.max_minutes, None
    if kept.exists():
        choice = cast(dict[str, int], read_plain(kept, LENGTHS_RULE))
    if minutes is not None and choice is None and config.store_frozen:
        choice = _choose(step, minutes)
        if choice is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_json(kept, choice)
    return with_length(config, choice), choice


def with_length(config: RunConfig, choice: Mapping[str, int] | None) -> RunConfig:
    """With the length that was taken where it is less, and these settings ask for what was asked then; each step of a
    ladder has its own for ``auto``."""
    if choice is None or choice["taken"] == choice["asked"]:
        return config
    if config.text.get("max_length") not in (choice["asked"], "auto"):
        return config
    return replace(config, text=config.text | {"max_length": choice["taken"]})


def _choose(step: RunConfig, minutes: float) -> dict[str, int] | None:
    schema, data = described(step)
    columns = columns_of_text(step, schema)
    if not columns:
        return None
    read = _tables(step, schema, data)
    step = settled(step, schema, len(read[0]), read[0])
    if step.text.get("n_tuned_layers") != 0:
        return None
    _, backbone = build_text_encoder(step.text, "text", len(columns))
    if not isinstance(backbone, TextBackbone):
        return None
    torch.set_num_threads(step.trainer.n_threads or usable_cores())  # as training will have them
    compute = compute_of(step)
    cache = FeatureCache(store_of(step), compute.autocast, compute.device)
    sequences = [tokenize(table, columns, backbone.spec, cache.store) for table in read]
    lengths = np.concatenate([one.lengths[one.lengths > 0] for one in sequences]) + 2
    asked = backbone.spec.max_length
    if not len(lengths) or all(cache.has_texts(backbone, one) for one in sequences):
        return {"asked": asked, "taken": asked}
    n_tokens = 60 * SHARE * minutes * tokens_per_second(backbone, sequences[0], cache) / step.dataset.train_share
    shorter = range(asked - asked % STEP, SHORTEST, -STEP)
    taken = next((n for n in (asked, *shorter) if np.minimum(lengths, n).sum() <= n_tokens), min(SHORTEST, asked))
    if taken < asked:
        needed = SHARE * minutes * lengths.sum() / n_tokens
        say(
            f"the network reads {taken} tokens of a row's text: for text.max_length={asked} it would take about "
            f"{needed:.2g} min here, and trainer.max_minutes is {minutes:.4g}"
        )
    return {"asked": asked, "taken": taken}


def tokens_per_second(backbone: TextBackbone, sequences: Sequences, cache: FeatureCache) -> float:
    """Of some rows, after a few to warm up; the better of two, for other work slows one down but never speeds it up."""
    filled = np.flatnonzero(sequences.lengths.reshape(sequences.n_rows, -1).any(1))
    rows = np.random.default_rng(0).permutation(filled)[:BATCH]
    to_evaluate(backbone, cache.device)
    rates = list[float]()
    with torch.inference_mode(), cache.autocast():
        for some in (rows[:4], rows[: BATCH // 2], rows[BATCH // 2 :]):
            if len(some):
                text = sequences.single(np.sort(some)).to(cache.device)
                started = time.perf_counter()
                backbone(text, len(some), sequences.n_columns)[0].sum().item()
                rates.append(int(text.mask.sum()) / max(time.perf_counter() - started, 1e-9))
    return max(rates[1:] or rates)


def _tables(config: RunConfig, schema: Schema, data: Path) -> list[Stream | Table]:
    """All whose text is read before training."""
    bad_cells: Any = config.dataset.bad_cells
    if not schema.of_rows:
        return [read_records(data, schema, bad_cells).table]
    paths = [tables.find_table(data, schema, split) for split in ("train", "valid")]
    return [Stream(path, schema, data, bad_cells) for path in paths]
