"""The generated catalogue keeps to the dataset standard, tells what its ceilings say, and nothing else."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.naive_bayes import CategoricalNB
from sklearn.neighbors import KNeighborsClassifier

from mmtab.data import synthetic
from mmtab.data.synthetic import (
    MODALITIES,
    TASKS,
    Channel,
    Recipe,
    attributes,
    ceilings,
    descriptions,
    photographs,
    relation_ceilings,
    write,
    write_catalogue,
)
from mmtab.data.synthetic.recipe import Ints
from mmtab.data.synthetic.write import COLUMNS

# So noisy that a slip in the enumeration shows.
ROUGH = Recipe(
    image=Channel(0.85, 0.1),
    text=Channel(0.9, 0.15),
    numeric=Channel(0.95, 0.05),
    categorical=Channel(0.8, 0.1),
    named_shape=0.5,
    named_shape_reliability=0.8,
    positive_share=0.35,
    variant_share=0.3,
    negative_mix=(0.4, 0.3, 0.2, 0.1),
    two_aspects=0.4,
)
SUBSETS = [s for n in range(1, 5) for s in combinations(range(4), n)]
PAIR_TASKS = tuple(task for task in TASKS if task not in ("product_type", "price"))
RELATIONS = [("duplicates", "label"), ("variants", "label"), ("offers", "duplicate"), ("offers", "variant")]
# The facts that tell whether a relation holds, by modality. Image, text, numeric, categorical.
ASPECTS = {
    "duplicates": (("colour",), ("name",), ("length",), ("brand",)),
    "variants": (("pattern",), ("name",), ("weight",), ("brand",)),
    "offers": (("pattern", "colour"), ("name",), ("weight", "length"), ("brand",)),
}
Row = dict[str, Any]


def subset_name(subset: tuple[int, ...]) -> str:
    return "+".join(MODALITIES[m] for m in subset)


def flat_photograph(shape: int, pattern: int, colour: int, size: int, rng: np.random.Generator) -> Image.Image:
    """A photograph so plain that what it shows can be read from one pixel."""
    return Image.new("RGB", (size, size), (60 * shape, 50 * pattern, 25 * colour))


def rows_of(path: Path) -> list[Row]:
    rows: list[Row] = pq.read_table(path).to_pylist()
    return rows


def pairs_of(folder: Path, relation: str) -> list[tuple[Row, Row, int]]:
    left = {row["id"]: row for row in rows_of(folder / "left.parquet")}
    right = {row["id"]: row for row in rows_of(folder / "right.parquet")}
    tables = [rows_of(folder / f"pairs_{split}.parquet") for split in ("train", "valid", "test")]
    return [(left[p["left_id"]], right[p["right_id"]], p[relation]) for table in tables for p in table]


def words_of(row: Row) -> str:
    return f"{row['title'] or ''} {row['description'] or ''}"


def model_of(row: Row) -> str | None:
    if row["title"] is None:
        return None
    (name,) = re.findall(r"[A-Z][a-z]+ \d{3,4}", words_of(row))
    return str(name)


def use_of(row: Row) -> int | None:
    if row["title"] is None:
        return None
    uses = [u for u, phrases in enumerate(descriptions.USE_PHRASES) if any(p in words_of(row) for p in phrases)]
    (use,) = uses
    return use


def named_of(row: Row) -> int:
    words = set(re.findall(r"[a-z]+", words_of(row)))
    named = [s for s, nouns in enumerate(descriptions.SHAPE_NOUNS) if words & set(nouns)]
    assert len(named) <= 1
    return named[0] if named else -1


def shown_in_photo(folder: Path, row: Row) -> tuple[int, int, int] | None:
    """Shape, pattern and colour, from a flat photograph."""
    if row["image"] is None:
        return None
    red, green, blue = np.asarray(Image.open(folder / row["image"]))[4, 4]
    return round(red / 60), round(green / 50), round(blue / 25)


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Rough catalogues of 3000 rows with flat photographs, each written once."""
    folders: dict[str, Path] = {}

    def written(task: str) -> Path:
        if task not in folders:
            folders[task] = tmp_path_factory.mktemp(task)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(write, "photograph", flat_photograph)
                write_catalogue(folders[task], task, n_rows=3000, seed=3, image_size=16, recipe=ROUGH)
        return folders[task]

    return written


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small catalogues with real photographs."""
    folders = {task: tmp_path_factory.mktemp(task) for task in TASKS}
    for task, folder in folders.items():
        write_catalogue(folder, task, n_rows=120, seed=1, image_size=40)
    return folders


# Ceilings.


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("recipe", [Recipe(), ROUGH], ids=["default", "rough"])
def test_more_modalities_never_lower_the_ceiling(task: str, recipe: Recipe) -> None:
    scores = ceilings(task, recipe)
    assert list(scores) == [subset_name(subset) for subset in SUBSETS]
    for small in SUBSETS:
        for large in SUBSETS:
            if set(small) < set(large):
                assert scores[subset_name(small)] <= scores[subset_name(large)] + 1e-12


@pytest.mark.parametrize("task", TASKS)
def test_all_modalities_are_needed(task: str) -> None:
    scores = list(ceilings(task).values())
    assert 0.91 < scores[-1] < 0.95
    gap, alone = (0.09, 0.66) if task == "offers" else (0.15, 0.56)  # half of the offers' pairs are of one product
    assert max(scores[:-1]) < scores[-1] - gap
    assert max(scores[:4]) < alone


def test_ceilings_of_noiseless_channels_in_closed_form() -> None:
    sure = Channel(reliability=1.0, missing=0.0)
    recipe = Recipe(sure, sure, sure, sure, named_shape=0.0)
    types = ceilings("product_type", recipe)
    assert types["image+text+numeric+categorical"] == pytest.approx(1)
    assert types["image"] == pytest.approx(1 / 12)
    assert types["text+numeric"] == pytest.approx(1 / 8)
    pairs = ceilings("variants", recipe)
    assert pairs["image+text+numeric+categorical"] == pytest.approx(1)
    # Of the others, 0.25 * 0.8 + 0.2 / 2 differ in the image; the rest look like matches.
    assert pairs["image"] == pytest.approx(2 * 0.3 / (0.3 + 0.3 + 0.7 * 0.7))
    offers = relation_ceilings("offers", recipe)
    for scores in offers.values():
        assert scores["image+text+numeric+categorical"] == pytest.approx(1)
    # 0.44 are of one product. Of the pairs that look like it, 0.3 / 0.44 are duplicates, and a third of the others
    # differ in the colour alone, the size alone, or both.
    assert offers["variant"]["image"] == pytest.approx(2 * 0.44 / (0.44 + 0.44 + 0.56 * 0.7))
    looks = (0.44 + 0.56 * 0.7) * (0.3 + 0.14 / 3) / 0.44
    assert offers["duplicate"]["image"] == pytest.approx(2 * 0.3 / (0.3 + looks))


def test_a_text_that_names_the_shape_stands_in_for_the_image() -> None:
    unnamed = ceilings("product_type", replace(Recipe(), named_shape=0.0))
    named = ceilings("product_type")
    assert named["text"] > unnamed["text"] + 0.01
    assert named["image"] == unnamed["image"]


def test_the_mean_of_the_relations_is_the_ceiling() -> None:
    for task in PAIR_TASKS:
        each = relation_ceilings(task, ROUGH)
        assert list(each) == [relation for of, relation in RELATIONS if of == task]
        for subset, score in ceilings(task, ROUGH).items():
            assert score == pytest.approx(np.mean([scores[subset] for scores in each.values()]))


def test_the_docstring_states_the_ceilings() -> None:
    doc = synthetic.__doc__ or ""
    stated = re.findall(r"^    ([a-z+]+)" + r" +(0\.\d{3})" * 4 + "$", doc, re.MULTILINE)
    types, duplicates, variants, offers, prices = (ceilings(task) for task in TASKS)
    assert [name for name, *_ in stated] == list(types)
    for name, type_score, pair_score, offer_score, price in stated:
        assert float(price) == pytest.approx(prices[name], abs=6e-4)
        assert float(offer_score) == pytest.approx(offers[name], abs=6e-4)
        assert float(type_score) == pytest.approx(types[name], abs=6e-4)
        assert float(pair_score) == pytest.approx(duplicates[name], abs=6e-4)
        assert float(pair_score) == pytest.approx(variants[name], abs=6e-4)
    for relation, scores in relation_ceilings("offers").items():
        (score,) = re.findall(rf"{relation} (?:reaches )?(0\.\d{{3}})", " ".join(doc.split()))
        assert float(score) == pytest.approx(scores["image+text+numeric+categorical"], abs=6e-4)


def test_types_are_told_as_well_as_the_ceilings_say(flat: Callable[[str], Path]) -> None:
    """Naive Bayes on the signals read back from the tables; on them it is the right model."""
    folder = flat("product_type")
    rows = [row for split in ("train", "valid", "test") for row in rows_of(folder / f"{split}.parquet")]
    signals = np.zeros((len(rows), 4), dtype=int)  # 0: missing
    for signal, row in zip(signals, rows, strict=True):
        photo, use = shown_in_photo(folder, row), use_of(row)
        signal[0] = 0 if photo is None else 1 + photo[0]
        signal[1] = 0 if use is None else 2 + 5 * use + named_of(row)
        signal[2] = 0 if row["weight"] is None else 1 + (row["weight"] > 750)
        department = row["department"]
        signal[3] = 0 if department is None else 1 + (attributes.DEPARTMENTS.index(department) >= 4)
    labels = np.array([row["product_type"] for row in rows])
    scores = ceilings("product_type", ROUGH)
    for subset in SUBSETS:
        model = CategoricalNB(alpha=0.5, min_categories=17, fit_prior=False)
        told = cross_val_predict(model, signals[:, subset], labels, cv=5)
        # The fold's own counts are a little noisy, so somewhat less than the ceiling is expected, never more.
        gap = scores[subset_name(subset)] - np.mean(told == labels)
        assert -0.025 < gap < 0.05, (subset_name(subset), gap)


def worth_of(folder: Path, row: Row) -> list[float]:
    """By modality, what a row's signal leads one to expect of its price, as a share of the mean; 1 where it is missing.
    What is shown is true with the channel's reliability, else each other value is as likely."""

    def expected(shown: int, factors: list[float], channel: Channel) -> float:
        others = (sum(factors) - factors[shown]) / (len(factors) - 1)
        return (channel.reliability * factors[shown] + (1 - channel.reliability) * others) / np.mean(factors)

    photo, use = shown_in_photo(folder, row), use_of(row)
    image = 1.0 if photo is None else expected(photo[0], [0.75, 0.92, 1.1, 1.35], ROUGH.image)
    text = 1.0 if use is None else expected(use, [0.78, 1.0, 1.28], ROUGH.text)
    numeric = 1.0
    if row["weight"] is not None:
        heavy = int(row["weight"] > 750)
        place = (row["weight"] / (900 if heavy else 100)) ** 0.2
        places = 6 ** (0.2 * np.linspace(0, 1, 10_001))
        numeric = place / places.mean() * expected(heavy, [1.0, 9**0.2], ROUGH.numeric)
    line = None if row["department"] is None else attributes.DEPARTMENTS.index(row["department"]) // 4
    return [image, text, numeric, 1.0 if line is None else expected(line, [1.2, 0.8], ROUGH.categorical)]


def test_prices_are_told_as_well_as_the_ceilings_say_and_by_nothing_else(flat: Callable[[str], Path]) -> None:
    folder = flat("price")
    rows = [row for split in ("train", "valid", "test") for row in rows_of(folder / f"{split}.parquet")]
    price, worth = np.array([row["price"] for row in rows]), np.array([worth_of(folder, row) for row in rows])
    assert price.min() > 0 and all(named_of(row) == -1 for row in rows)
    scores = ceilings("price", ROUGH)
    for subset in SUBSETS:
        expected = price.mean() * worth[:, subset].prod(1)
        assert r2_score(price, expected) == pytest.approx(scores[subset_name(subset)], abs=0.03), subset
    # What is left of the price once all signals are known
    rest = price / worth.prod(1)
    others = np.array([alone(folder, row | {"price": None}) for row in rows], dtype=float)
    model = ExtraTreesRegressor(50, min_samples_leaf=10, max_features=0.5, random_state=0)
    assert r2_score(rest, cross_val_predict(model, others, rest, cv=2)) < 0.02
    for i, feature in enumerate(others.T):
        known = ~np.isnan(feature)
        if known.any() and np.ptp(feature[known]) > 0:
            assert abs(np.corrcoef(rest[known], feature[known])[0, 1]) < 4 / np.sqrt(known.sum()), i


def seen(folder: Path, row: Row) -> Row:
    """What a record shows of each fact, None: missing."""
    _, pattern, colour = shown_in_photo(folder, row) or (None, None, None)
    numbers = {name: row[name] for name in ("weight", "length")}
    return {"pattern": pattern, "colour": colour, "name": model_of(row), "brand": row["brand"], **numbers}


def same(fact: str, left: Any, right: Any) -> bool:
    if fact not in ("weight", "length"):
        return bool(left == right)
    ratio = max(left, right) / min(left, right)
    assert ratio < 1.03 or ratio > 1.25  # plainly the same or plainly another
    return ratio < 1.03


def signals_of(folder: Path, task: str, relation: str) -> tuple[Ints, Ints]:
    """A number for what the pair shows of each modality, 0: missing, (pairs, 4), and the labels."""
    signals, labels = [], []
    for left, right, label in pairs_of(folder, relation):
        a, b = seen(folder, left), seen(folder, right)
        signal = []
        for facts in ASPECTS[task]:
            missing = any(side[fact] is None for side in (a, b) for fact in facts)
            told = 0 if missing else 1 + sum(2**i for i, f in enumerate(facts) if same(f, a[f], b[f]))
            signal.append(told)
        signals.append(signal)
        labels.append(label)
    return np.array(signals), np.array(labels)


@pytest.mark.slow
@pytest.mark.parametrize(("task", "relation"), RELATIONS)
def test_pairs_are_told_as_well_as_the_ceilings_say(task: str, relation: str, flat: Callable[[str], Path]) -> None:
    """The share of matches among the pairs with the same signals as posterior, the best threshold on it."""
    signals, labels = signals_of(flat(task), task, relation)
    scores = relation_ceilings(task, ROUGH)[relation]
    for subset in SUBSETS:
        cells = signals[:, subset] @ 5 ** np.arange(len(subset))
        matches, counts = np.bincount(cells, labels, 625), np.bincount(cells, minlength=625)
        posterior = matches / counts.clip(1)
        best = 0.0
        for threshold in np.unique(posterior[counts > 0]):
            called = posterior >= threshold
            true, false = matches[called].sum(), (counts - matches)[called].sum()
            best = max(best, 2 * true / (true + false + labels.sum()))
        assert best == pytest.approx(scores[subset_name(subset)], abs=0.03), subset_name(subset)


# Nothing else tells.


def alone(folder: Path, row: Row) -> list[float]:
    """All that one record shows; without the other side, none of it tells the label."""
    word, number = (model_of(row) or "- nan").split()
    photo = shown_in_photo(folder, row) or (np.nan, np.nan, np.nan)
    brand = attributes.BRANDS.index(row["brand"]) if row["brand"] else np.nan
    department = attributes.DEPARTMENTS.index(row["department"]) if row["department"] else np.nan
    numbers = [np.nan if row[name] is None else row[name] for name in ("price", "weight", "length")]
    missing = [row[name] is None for name in COLUMNS]
    lengths = [len(words_of(row)), len(row["title"] or ""), len(word)]
    return [
        int(row["id"][1:]),
        float(number),
        named_of(row),
        brand,
        department,
        *photo,
        *numbers,
        *missing,
        *lengths,
    ]


def together(folder: Path, left: Row, right: Row, task: str) -> list[float]:
    """How two records compare in all that is no signal of the task."""
    wordings = [re.sub(r"[A-Z][a-z]+ \d{3,4}", "", words_of(row)).lower() for row in (left, right)]
    words = [set(re.findall(r"[a-z]+", wording)) for wording in wordings]
    compared: list[float] = [
        len(words[0] & words[1]),
        len(words[0] | words[1]),
        int(left["id"][1:]) - int(right["id"][1:]),
    ]
    compared += [left["department"] == right["department"], use_of(left) == use_of(right)]
    compared += [sum(row[name] is None for row in (left, right)) for name in COLUMNS]
    signals = {fact for facts in ASPECTS[task] for fact in facts}
    for name in (n for n in ("price", "weight", "length") if n not in signals):
        missing = left[name] is None or right[name] is None
        compared.append(np.nan if missing else abs(np.log(left[name] / right[name])))
    a, b = shown_in_photo(folder, left), shown_in_photo(folder, right)
    for part, name in enumerate(("shape", "pattern", "colour")):
        if name not in signals:
            compared.append(a[part] == b[part] if a and b else np.nan)
    return compared


@pytest.mark.slow
@pytest.mark.parametrize(("task", "relation"), RELATIONS)
def test_nothing_but_the_signals_tells_the_label(task: str, relation: str, flat: Callable[[str], Path]) -> None:
    pairs = pairs_of(flat(task), relation)
    labels = np.array([label for *_, label in pairs])
    blocks = {
        "left": [alone(flat(task), left) for left, _, _ in pairs],
        "right": [alone(flat(task), right) for _, right, _ in pairs],
        "both": [[i, *together(flat(task), *pair[:2], task)] for i, pair in enumerate(pairs)],
    }
    for name, block in blocks.items():
        features = np.array(block, dtype=float)
        model = ExtraTreesClassifier(50, min_samples_leaf=10, max_features=0.5, random_state=0)
        told = cross_val_predict(model, features, labels, cv=2, method="predict_proba")[:, 1]
        assert abs(roc_auc_score(labels, told) - 0.5) < 0.045, name
        for i, feature in enumerate(features.T):
            known = ~np.isnan(feature)
            assert abs(roc_auc_score(labels[known], feature[known]) - 0.5) < 0.045, (name, i)


@pytest.mark.parametrize(("task", "relation"), RELATIONS)
def test_a_signal_tells_no_more_than_its_relation(task: str, relation: str, flat: Callable[[str], Path]) -> None:
    """Among pairs whose numbers differ, how much they differ does not tell matches from others."""
    folder = flat(task)
    column = "weight" if task == "variants" or relation == "variant" else "length"
    pairs = [p for p in pairs_of(folder, relation) if None not in (p[0][column], p[1][column])]
    ratio = np.array([abs(np.log(left[column] / right[column])) for left, right, _ in pairs])
    labels = np.array([label for *_, label in pairs])
    for differs in (ratio > 0.2, ratio <= 0.2):
        n_each = np.bincount(labels[differs], minlength=2)
        spread = 4 * np.sqrt((1 / n_each).sum() / 12)  # four standard deviations, roughly
        assert abs(roc_auc_score(labels[differs], ratio[differs]) - 0.5) < spread


def test_colour_and_size_do_not_tell_whether_offers_are_of_one_product(flat: Callable[[str], Path]) -> None:
    folder = flat("offers")
    pairs = [(seen(folder, left), seen(folder, right), label) for left, right, label in pairs_of(folder, "variant")]
    for fact in ("colour", "length"):
        told = [(same(fact, a[fact], b[fact]), label) for a, b, label in pairs if None not in (a[fact], b[fact])]
        agree, labels = np.array(told).T
        assert abs(np.mean(labels[agree == 1]) - np.mean(labels[agree == 0])) < 0.045, fact


# Structure.


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("task", TASKS)
def test_same_seed_same_bytes(task: str, tmp_path: Path) -> None:
    write = partial(write_catalogue, task=task, n_rows=80, image_size=24)
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        write(tmp_path / name, seed=seed)
    a, b, c = (digest(tmp_path / name) for name in "abc")
    assert a == b
    assert a["images/" + Path(next(k for k in a if k.endswith("jpg"))).name] not in c.values()


@pytest.mark.parametrize("task", TASKS)
def test_dataset_yaml(task: str, real: dict[str, Path]) -> None:
    meta = yaml.safe_load((real[task] / "dataset.yaml").read_text())
    assert meta["name"] == ("catalogue" if task == "product_type" else f"catalogue_{task}")
    of_rows = {"product_type": ("kway", "accuracy"), "price": ("regression", "r2")}
    assert (meta["task"], meta["metric"]) == of_rows.get(task, ("matching", "f1"))
    assert meta["id"] == "id"
    assert meta.get("label") == (task if task in of_rows else None)
    assert ("price" in meta["columns"]) == (task != "price")
    assert set(meta["columns"].values()) == {"text", "categorical", "numeric", "image"}
    relations = {"duplicate": {"ignore": []}, "variant": {"ignore": ["length"]}}
    assert meta.get("relations") == (relations if task == "offers" else None)
    assert meta["ceilings"] == {name: round(score, 4) for name, score in ceilings(task).items()}
    assert meta["licence"].startswith("Apache-2.0") and meta["source"] and meta["title"]


def check_records(folder: Path, table: pa.Table, image_size: int) -> None:
    rows = table.to_pylist()
    assert len({row["id"] for row in rows}) == len(rows)
    for name, kind in COLUMNS.items():
        assert table.schema.field(name).type == (pa.float64() if kind == "numeric" else pa.string())
    for row in rows:
        assert "" not in row.values()  # missing is null
        if row["image"] is not None:
            with Image.open(folder / row["image"]) as image:
                image.load()
                assert (image.size, image.mode) == ((image_size, image_size), "RGB")


@pytest.mark.parametrize("task", ["product_type", "price"])
def test_tables_of_rows(task: str, real: dict[str, Path]) -> None:
    folder = real[task]
    tables = {split: pq.read_table(folder / f"{split}.parquet") for split in ("train", "valid", "test")}
    assert [table.num_rows for table in tables.values()] == [84, 12, 24]
    everything = pa.concat_tables(tables.values())
    check_records(folder, everything, 40)
    assert everything.column_names == ["id", *(name for name in COLUMNS if name != task), task]
    if task == "product_type":
        assert set(tables["train"]["product_type"].to_pylist()) == set(attributes.TYPE_NAMES)
    else:
        assert not everything["price"].null_count
    photos = {path for path in everything["image"].to_pylist() if path is not None}
    assert photos == {f"images/{path.name}" for path in (folder / "images").iterdir()}


@pytest.mark.parametrize("task", PAIR_TASKS)
def test_matching_tables(task: str, real: dict[str, Path]) -> None:
    folder = real[task]
    sides = {side: pq.read_table(folder / f"{side}.parquet") for side in ("left", "right")}
    assert sides["left"].schema == sides["right"].schema
    pairs = {split: pq.read_table(folder / f"pairs_{split}.parquet") for split in ("train", "valid", "test")}
    assert [table.num_rows for table in pairs.values()] == [84, 12, 24]
    everything = pa.concat_tables(pairs.values())
    names = [relation for of, relation in RELATIONS if of == task]
    assert everything.column_names == ["left_id", "right_id", *names]
    assert {everything.schema.field(name).type for name in names} == {pa.int8()}
    for side, table in sides.items():
        check_records(folder, table, 40)
        assert sorted(everything[f"{side}_id"].to_pylist()) == table["id"].to_pylist()  # each in one pair
    for table in pairs.values():
        assert np.mean(table[names[0]].to_numpy()) == pytest.approx(0.3, abs=0.05)
    assert (folder / "entities.parquet").exists() == (task == "offers")


def test_the_labels_of_offers_agree_with_each_other_and_with_the_entities(flat: Callable[[str], Path]) -> None:
    folder = flat("offers")
    entities = pq.read_table(folder / "entities.parquet")
    assert {entities.schema.field(name).type for name in ("id", "duplicate", "variant")} == {pa.string()}
    rows = {row["id"]: row for row in entities.to_pylist()}
    sides = [pq.read_table(folder / f"{side}.parquet", columns=["id"]) for side in ("left", "right")]
    assert list(rows) == pa.concat_tables(sides)["id"].to_pylist()
    tables = [rows_of(folder / f"pairs_{split}.parquet") for split in ("train", "valid", "test")]
    for table in tables:
        kinds = [(pair["duplicate"], pair["variant"]) for pair in table]
        shares = [kinds.count(kind) / len(kinds) for kind in ((1, 1), (0, 1), (0, 0))]  # none is only a duplicate
        assert shares == pytest.approx([0.35, 0.65 * 0.3, 0.65 * 0.7], abs=0.002)
    for relation in ("duplicate", "variant"):
        for pair in (pair for table in tables for pair in table):
            left, right = (rows[pair[name]][relation] for name in ("left_id", "right_id"))
            assert (left == right) == pair[relation]
        clusters = {row[relation] for row in rows.values()}
        pairs = sum(pair[relation] for table in tables for pair in table)
        assert len(clusters) == len(rows) - pairs  # a match joins two records, and nothing else does


def test_the_number_of_processes_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "CHUNK", 17)
    for n_cores in (1, 2):
        monkeypatch.setattr(write, "_n_cores", lambda n_cores=n_cores: n_cores)
        write_catalogue(tmp_path / str(n_cores), "offers", n_rows=60, image_size=16)
    assert digest(tmp_path / "1") == digest(tmp_path / "2")
    left = rows_of(tmp_path / "1" / "left.parquet")
    assert [row["id"] for row in left] == [f"l{i:06d}" for i in range(60)]
    assert len({row["title"] for row in left}) > 50  # the chunks do not repeat each other


@pytest.mark.parametrize("task", PAIR_TASKS)
def test_splits_share_no_product(task: str, flat: Callable[[str], Path]) -> None:
    folder = flat(task)
    pairs = pairs_of(folder, "variant" if task == "offers" else "label")
    names = [{model_of(row) for row in pair[:2]} - {None} for pair in pairs]
    assert sum(map(len, names)) == len(set().union(*names))  # not even two pairs do
    assert len({name for pair in names for name in pair}) > len(pairs)


def test_shapes_can_be_told_from_real_photographs() -> None:
    rng = np.random.default_rng(0)
    shapes = np.arange(400) % 4
    silhouettes = []
    for shape in shapes:
        pattern, colour = int(rng.integers(6)), int(rng.integers(10))
        photo = photographs.photograph(int(shape), pattern, colour, 48, rng)
        pixels = np.asarray(photo, dtype=float)
        off = np.abs(pixels - np.median(pixels[[0, -1]], axis=(0, 1))).max(axis=2).clip(0, 60)
        silhouettes.append(off.reshape(16, 3, 16, 3).mean(axis=(1, 3)).ravel())
    model = KNeighborsClassifier(5).fit(silhouettes[:300], shapes[:300])
    assert model.score(silhouettes[300:], shapes[300:]) > 0.95


def test_vocabularies_are_told_apart() -> None:
    assert len(set(attributes.TYPE_NAMES)) == 48
    assert len(set(descriptions.MODEL_WORDS)) == 120
    one_word = [
        m + s * descriptions.N_MODELS
        for s in range(descriptions.MODEL_SERIES)
        for m in range(descriptions.MODEL_NUMBERS)
    ]
    assert [descriptions.model_name(model) for model in one_word] == [f"Alba {number}" for number in range(100, 10_000)]
    assert len(set(attributes.BRANDS)) == 20 and len(set(attributes.DEPARTMENTS)) == 8
    colours = np.array(list(attributes.COLOURS.values()), dtype=float)
    apart = [np.linalg.norm(a - b) for a, b in combinations(colours, 2)]
    assert min(apart) > 75
    phrases = [phrase for phrases in descriptions.USE_PHRASES for phrase in phrases]
    assert not any(a in b for a in phrases for b in phrases if a != b)
    others = " ".join([*descriptions.FILLERS, *phrases, *descriptions.GENERIC_NOUNS]).lower()
    assert not set(re.findall("[a-z]+", others)) & {n for nouns in descriptions.SHAPE_NOUNS for n in nouns}
    for floor, following in pairwise(attributes.BAND_FLOOR):
        assert floor * attributes.BAND_SPAN < following


# Errors.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "colour"}, "task is 'colour': expected one of product_type"),
        ({"task": "product_type", "n_rows": 68}, "n_rows is 68: expected at least 69"),
        ({"task": "variants", "n_rows": 8}, "n_rows is 8"),
        ({"task": "offers", "n_rows": 20}, "n_rows is 20"),
        ({"task": "offers", "n_rows": 600_000}, "n_rows is 600000: expected at most 594000"),
        ({"task": "variants", "image_size": 8}, "image_size is 8"),
        ({"task": "variants", "seed": -1}, "seed is -1"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        write_catalogue(tmp_path / "out", **arguments)


def test_smallest_sizes_are_written(tmp_path: Path) -> None:
    write_catalogue(tmp_path / "types", "product_type", n_rows=69, image_size=16)
    write_catalogue(tmp_path / "prices", "price", n_rows=69, image_size=16)
    write_catalogue(tmp_path / "pairs", "variants", n_rows=20, image_size=16)
    write_catalogue(tmp_path / "offers", "offers", n_rows=40, image_size=16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": Channel(1.2, 0)}, "Recipe.image.reliability is 1.2: expected a probability"),
        ({"text": Channel(1, -0.1)}, "Recipe.text.missing is -0.1"),
        ({"named_shape": float("nan")}, "Recipe.named_shape is nan"),
        ({"positive_share": 1.0}, "Recipe.positive_share is 1.0"),
        ({"variant_share": 0.0}, "Recipe.variant_share is 0.0"),
        ({"negative_mix": (0.5, 0.5, 0.5, 0.5)}, "Recipe.negative_mix is .* sum to 1"),
        ({"negative_mix": (1.0, 0.0, 0.0, 0.0)}, "Recipe.two_aspects is 0.2: expected 0"),
    ],
)
def test_bad_recipes(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**arguments)


def test_one_aspect_only() -> None:
    """A recipe whose negatives all differ in the image alone is told by the image alone."""
    recipe = Recipe(negative_mix=(1.0, 0.0, 0.0, 0.0), two_aspects=0.0)
    scores = ceilings("duplicates", recipe)
    assert scores["image"] == pytest.approx(scores["image+text+numeric+categorical"])
    assert scores["text"] == pytest.approx(2 * 0.3 / (0.3 + 1))
