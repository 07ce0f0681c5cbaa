"""What is computed once gives what computing it each time gives: to the bit where ``EXACT`` says so, else closely."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
import torch
from toy_data import tiny_text_backbone, write_kway, write_pairs

from mmtab.config.compose import compose
from mmtab.config.types import CategoryRules
from mmtab.data import files
from mmtab.data import pictures as images
from mmtab.data.schema import Schema
from mmtab.data.streams import Stream
from mmtab.data.table import Table, read_split
from mmtab.features import text
from mmtab.features.backbones import Backbones, ImageBackbone, TextBackbone, TextSpec
from mmtab.features.backbones import text as text_backbone
from mmtab.features.cache import FeatureCache
from mmtab.features.encoded import EncodedTable, encode_table
from mmtab.features.loader import LengthBatches, RowBatches
from mmtab.features.preprocess import Preprocessor
from mmtab.model.encoders.text import TextEncoder
from mmtab.runs.train import train
from mmtab.training import mining
from mmtab.utils import distributed as ranks
from mmtab.utils.cache import Store

EXACT: list[tuple[str, list[str], Callable[[pytest.MonkeyPatch], None]]] = [
    ("a warm store", [], lambda patch: None),
    ("batches of five rows read anew each time", [], lambda patch: _stream(patch)),
    ("another process that slices", ["trainer.n_workers=1"], lambda patch: None),
    ("checkpointing", ["text.checkpointing=true"], lambda patch: None),
]
CLOSE: list[tuple[str, list[str], Callable[[pytest.MonkeyPatch], None]]] = [
    ("lower text layers in every step", ["store_frozen=false"], lambda patch: None),
    ("rows of pairs encoded in each batch", [], lambda patch: patch.setattr(mining, "ROWS_IN_MEMORY", 0)),
]


def _stream(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Stream, "KEEP", 0)
    patch.setattr(files, "BATCH_ROWS", 5)
    patch.setattr(images, "ROWS_AT_ONCE", 3)
    patch.setattr(text, "CELLS_AT_ONCE", 7)


@pytest.fixture(scope="module")
def plain(backbone: Path, image_backbone: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Folders and valid metrics of a run on each task, with an empty cache."""
    root = tmp_path_factory.mktemp("plain")
    found: dict[str, Any] = {
        "root": root,
        "small": [
            f"text.backbone={backbone}",
            "text.max_length=24",
            "text.n_tuned_layers=1",
            f"image.backbone={image_backbone}",
            "image.size=32",
            "d_model=16",
            "fusion.d_hidden=32",
            "trainer.max_epochs=2",
            "trainer.batch_size=16",
            "trainer.progress=false",
            "trainer.precision=fp32",
            f"cache={root / 'cache'}",
            "dataset=custom",
        ],
    }
    for name, write in (("kway", write_kway), ("pairs", write_pairs)):
        write(root / name, n=90)
        found[name] = train(_config(found, name), root / f"run-{name}")
    return found


def _config(plain: dict[str, Any], name: str, *settings: str) -> Any:
    return compose(*plain["small"], f"dataset.path={plain['root'] / name}", "output=unused", *settings)


@pytest.mark.parametrize("task", ["kway", "pairs"])
@pytest.mark.parametrize(("settings", "change"), [e[1:] for e in EXACT], ids=[e[0] for e in EXACT])
def test_same_metrics_to_the_last_bit(
    task: str, settings: list[str], change: Any, plain: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch)
    cache = [] if not settings and change is EXACT[0][2] else [f"cache={tmp_path / 'cache'}"]
    assert train(_config(plain, task, *settings, *cache), tmp_path / "run") == plain[task]


def _losses(plain: dict[str, Any], task: str, folder: Path, *settings: str) -> list[float]:
    """On valid, by epoch, for which epoch is the best may hang on a hair; so may which pairs are mined."""
    train(_config(plain, task, "pair_head.hard_negatives=0", *settings), folder)
    return pa.csv.read_csv(folder / "metrics.csv").column("valid/log_loss").drop_null().to_pylist()


@pytest.fixture(scope="module", params=["kway", "pairs"])
def reference(
    request: pytest.FixtureRequest, plain: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, list[float]]:
    """A task, and the losses of a plain run on it."""
    return request.param, _losses(plain, request.param, tmp_path_factory.mktemp("reference") / "run")


@pytest.mark.parametrize(("settings", "change"), [c[1:] for c in CLOSE], ids=[c[0] for c in CLOSE])
def test_nearly_the_same_metrics(
    reference: tuple[str, list[float]],
    settings: list[str],
    change: Any,
    plain: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task, losses = reference
    change(monkeypatch)
    assert len(losses) == 2 and _losses(plain, task, tmp_path / "run", *settings) == pytest.approx(losses, abs=1e-2)


# --- streams ---------------------------------------------------------------------------------------------------------


def encoded(table: Table | Stream, schema: Schema, backbone: Path, store: Path) -> EncodedTable:
    torch.manual_seed(0)
    preprocessor = Preprocessor.fit(table.batches(), schema, CategoryRules(min_count=1))
    backbones = Backbones(text_of(backbone), ImageBackbone("test_efficientnet", 32, pretrained=False))
    return encode_table(table, schema, preprocessor, backbones, FeatureCache(Store(store)))


def text_of(folder: Path, dropout: float = 0.1, **settings: Any) -> TextBackbone:
    """A text backbone of which the topmost layer learns."""
    return TextBackbone(TextSpec.load(str(folder), max_length=24, **settings), n_tuned_layers=1, dropout=dropout)


def encoder_of(backbone: TextBackbone, n_columns: int = 2) -> TextEncoder:
    return TextEncoder(n_columns, 16, backbone)


def arrays(table: EncodedTable) -> dict[str, np.ndarray]:
    assert table.text is not None and table.text.states is not None
    found = {name: value for name, value in vars(table).items() if isinstance(value, np.ndarray)}
    return found | {
        "ids": table.text.cells.values,
        "offsets": table.text.cells.offsets,
        "states": table.text.states.values,
        "lengths": table.text.lengths,
    }


def test_a_table_read_in_batches_is_encoded_as_the_whole(
    tmp_path: Path, backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_kway(tmp_path / "toys", n=80)
    schema = Schema.read(folder)
    whole = encoded(read_split(folder, schema, "train"), schema, backbone, tmp_path / "a")
    _stream(monkeypatch)
    stream = Stream(folder / "train.parquet", schema, folder)
    parts = encoded(stream, schema, backbone, tmp_path / "b")
    for name, values in arrays(whole).items():
        assert np.array_equal(values, arrays(parts)[name], equal_nan=values.dtype.kind == "f"), name
    again = {path.relative_to(tmp_path / "b") for path in (tmp_path / "b").rglob("*.npy")}
    assert again == {
        path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.npy")
    }  # so they share a cache
    assert all(isinstance(values, np.memmap) for name, values in arrays(parts).items() if name != "lengths")


def test_a_stream_tells_what_its_table_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_kway(tmp_path / "toys", n=80)
    schema = Schema.read(folder)
    table = read_split(folder, schema, "train")
    monkeypatch.setattr(files, "BATCH_ROWS", 7)
    for keep in (0, 1 << 20):
        monkeypatch.setattr(Stream, "KEEP", keep)
        stream = Stream(folder / "train.parquet", schema, folder)
        assert len(stream) == len(table) == 48 and stream.digests == table.digests and stream.n_bad_cells == 0
        reads = []
        monkeypatch.setattr(
            files, "scan", lambda *a, scan=files.scan, reads=reads, **k: reads.append(a) or scan(*a, **k)
        )
        batches = list(stream.batches())
        assert [len(batch) for batch in batches] == [7, 7, 7, 7, 7, 7, 6]
        assert pa.concat_arrays([batch.ids for batch in batches]).equals(table.ids)
        assert bool(reads) == (keep == 0)  # what is small is read once
        monkeypatch.undo()
        monkeypatch.setattr(files, "BATCH_ROWS", 7)
    assert all(
        batch.labels is None for batch in Stream(folder / "train.parquet", schema, folder, labels=False).batches()
    )


# --- frozen lower layers ---------------------------------------------------------------------------------------------


def texts(backbone: TextBackbone, store: Path) -> EncodedTable:
    words = ["red lamp", None, "green piano of teal", "a", "gold tent, black drill and blue globe", "chair"]
    columns = {"name": pa.array(words), "note": pa.array(words[::-1])}
    schema = Schema.from_dict(
        {
            "name": "toys",
            "task": "kway",
            "id": "id",
            "label": "label",
            "columns": dict.fromkeys(columns, "text"),
        }
    )
    table = Table("toys", "train", store, pa.array([f"i{i}" for i in range(6)]), columns)
    return encode_table(table, schema, Preprocessor({}, {}, None), Backbones(backbone), FeatureCache(Store(store)))


@pytest.mark.parametrize("layout", ["joint", "column"])
def test_stored_states_stand_in_for_the_lower_layers(layout: Any, backbone: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = encoder_of(text_of(backbone, dropout=0.0, layout=layout)).train()
    table = texts(encoder.backbone, tmp_path)
    assert encoder.backbone.n_frozen_layers == 1 and table.text is not None and table.text.states is not None
    assert table.text.states.values.dtype == np.float16
    rows, results = np.array([4, 0, 1, 2]), []
    for given in (table, replace(table, text=replace(table.text, states=None))):
        encoder.train().zero_grad()
        x = encoder(given.rows(rows)).x
        x.square().sum().backward()
        gradients = torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None])
        results.append((x.detach(), gradients))
    torch.testing.assert_close(results[0][0], results[1][0], atol=5e-3, rtol=5e-3)
    torch.testing.assert_close(results[0][1], results[1][1], atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize(
    "name", ["BertModel", "RobertaModel", "DistilBertModel", "ElectraModel", "MPNetModel", "ModernBertModel"]
)
def test_architectures_are_cut(name: str, tmp_path: Path) -> None:
    import transformers

    kind = getattr(transformers, name)
    small = {
        "vocab_size": 200,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "dim": 32,
        "n_layers": 3,
        "n_heads": 2,
        "hidden_dim": 48,
        "embedding_size": 32,
        "pad_token_id": 0,
        "cls_token_id": 2,
        "sep_token_id": 3,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "local_attention": 16,
        "reference_compile": False,
    }
    folder = tiny_text_backbone(tmp_path / "model")
    config = kind.config_class(**small)
    for file in ("config.json", "model.safetensors"):
        (folder / file).unlink()
    torch.manual_seed(0)
    kind(config).save_pretrained(folder)
    encoder = encoder_of(text_of(folder, dropout=0.0)).eval()
    assert encoder.backbone.n_frozen_layers == 2
    table = texts(encoder.backbone, tmp_path / "cache")
    assert table.text is not None and table.text.states is not None
    rows = np.arange(6)
    whole = replace(table, text=replace(table.text, states=None))
    with torch.no_grad():
        torch.testing.assert_close(encoder(table.rows(rows)).x, encoder(whole.rows(rows)).x, atol=5e-3, rtol=5e-3)


def test_an_architecture_that_cannot_be_cut_runs_whole(
    backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_backbone._PassThrough, "forward", lambda *args, **kwargs: kwargs["inputs_embeds"] * 2)
    encoder = encoder_of(text_of(backbone))
    table = texts(encoder.backbone, tmp_path)
    assert encoder.backbone.n_frozen_layers == 0 and table.text is not None and table.text.states is None
    assert encoder(table.rows(np.arange(6))).x.isfinite().all()


def test_only_what_learns_drops_out(backbone: Path) -> None:
    net = encoder_of(text_of(backbone, dropout=0.1)).train().backbone.net
    layers = net.encoder.layer
    dropouts = [[m.training for m in layer.modules() if isinstance(m, torch.nn.Dropout)] for layer in layers]
    assert not any(dropouts[0]) and dropouts[1] and all(dropouts[1])
    assert not net.embeddings.training


def test_states_too_large_for_the_disk_are_not_stored(
    backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = text_of(backbone)
    monkeypatch.setattr(Store, "has_room", lambda store, n: False)
    with pytest.warns(UserWarning, match=r"text.n_tuned_layers=1: .* 0.0 GB .*cache_gb"):
        table = texts(small, tmp_path)
    assert table.text is not None and table.text.states is None
    monkeypatch.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert texts(small, tmp_path).text.states is not None  # type: ignore[union-attr]


def test_room_is_half_of_the_limit_and_of_the_disk(tmp_path: Path) -> None:
    store = Store(tmp_path / "not" / "there", limit=1000)
    assert store.has_room(500) and not store.has_room(501)
    assert Store(tmp_path).has_room(1000) and not Store(tmp_path).has_room(1 << 60)


# --- shares of several processes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "n_ranks"), [(100, 1), (100, 3), (97, 4), (7, 4), (5, 2)])
def test_processes_share_the_batches(n: int, n_ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = RowBatches(EncodedTable(n, np.zeros((n, 1), np.float32), np.zeros((n, 0), np.int32)), np.zeros(n, np.int64))
    for shuffle in (False, True):
        alone, shares = [set(batch) for batch in LengthBatches(rows, 8, shuffle)], []
        for rank in range(n_ranks):
            monkeypatch.setattr(ranks, "rank", lambda rank=rank: (rank, n_ranks))
            sampler = LengthBatches(rows, 8, shuffle)
            shares.append(list(sampler))
            assert len(sampler) == len(shares[-1])
        monkeypatch.undo()
        together = [batch for share in shares for batch in share]
        assert len({len(share) for share in shares}) == 1 and all(
            together
        )  # all wait for all, and have something to do
        if shuffle:  # each step is of the same rows as in one process
            assert [set().union(*parts) for parts in zip(*shares, strict=True)] == alone
            if all(len(batch) >= n_ranks for batch in alone):
                assert sorted(row for batch in together for row in batch) == list(range(n))
        else:  # each batch is one of those of one process
            assert {frozenset(batch) for batch in together} == {frozenset(batch) for batch in alone}


def test_batches_go_on_where_they_were_left() -> None:
    rows = RowBatches(
        EncodedTable(50, np.zeros((50, 1), np.float32), np.zeros((50, 0), np.int32)), np.zeros(50, np.int64)
    )
    whole = LengthBatches(rows, 8, True)
    epochs = [list(whole) for _ in range(3)]
    sampler = LengthBatches(rows, 8, True)
    sampler.start(1, 4)
    assert [list(sampler), list(sampler)] == [epochs[1][4:], epochs[2]]
