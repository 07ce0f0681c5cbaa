"""Raw forms that no column mapping can say. A form takes the raw files to tables that still have the raw columns.

K-way: ``train``, ``valid``, ``test``, or ``all`` where the recipe splits it. Matching: ``left`` and ``right`` (or
``records``) with ``id``, and ``pairs_*`` with left_id, right_id, label.
"""

from __future__ import annotations

import collections
import importlib
import itertools
import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from mmtab.data import splits
from mmtab.prepare.importers.raw import Raw, rows_of
from mmtab.prepare.importers.recipes import Recipe
from mmtab.utils.errors import ConfigError, DataError

Tables = dict[str, pa.Table]
Row = dict[str, Any]
ABO_TEXTS = ("material", "style", "pattern", "fabric_type", "finish_type")


def table(recipe: Recipe, raw: Raw, seed: int) -> Tables:
    """Tables with a header; the recipe says which file is which."""
    group = recipe.split.group if recipe.split else None
    wanted = [*(c.raw for c in recipe.columns), *(c for c in (recipe.id, recipe.label, group) if c)]
    optional = [column.raw for column in recipe.columns if column.optional]
    return {stem: raw.table(path, wanted, optional) for stem, path in recipe.tables.items()}


def deepmatcher(recipe: Recipe, raw: Raw, seed: int) -> Tables:
    """tableA, tableB, and train, valid, test with ltable_id, rtable_id, label; or the same set as Ditto hands it on."""
    if raw.look("tableA.csv") is None and raw.look("train.txt") is not None:
        return ditto(recipe, raw, seed)
    tables = {}
    for side, path in (("left", "tableA.csv"), ("right", "tableB.csv")):
        tables[side] = raw.table(path, ["id", *(column.raw for column in recipe.columns)])
    for split in ("train", "valid", "test"):
        names = {"ltable_id": "left_id", "rtable_id": "right_id", "label": "label"}
        pairs = raw.table(f"{split}.csv", list(names))
        tables[f"pairs_{split}"] = pairs.rename_columns([names[name] for name in pairs.column_names])
    return tables


def ditto(recipe: Recipe, raw: Raw, seed: int) -> Tables:
    """Lines of ``COL name VAL text ...``, tab, the same of the right, tab, 0 or 1. Equal text is one record."""
    names = "|".join(re.escape(column.raw) for column in recipe.columns)
    field = re.compile(rf"(?:^| )COL ({names}) VAL(?: |$)")
    sides: dict[str, dict[str, Row]] = {"left": {}, "right": {}}
    tables: Tables = {}
    for split in ("train", "valid", "test"):
        path = raw.find(recipe.tables.get(f"pairs_{split}", f"{split}.txt"))
        pairs: list[Row] = []
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
            if not line.strip():
                continue
            cells = line.rstrip("\r").split("\t")
            if len(cells) != 3 or cells[2].strip() not in ("0", "1"):
                raise DataError(
                    recipe.name,
                    "not a line of Ditto's form",
                    table=path.name,
                    row=number,
                    expected="LEFT, tab, RIGHT, tab, 0 or 1",
                    found=line,
                )
            pair: Row = {"label": cells[2].strip()}
            for side, text in zip(sides, cells, strict=False):
                parts = field.split(text)
                if len(parts) == 1:
                    raise DataError(
                        recipe.name,
                        f"the {side} record has none of the columns",
                        table=path.name,
                        row=number,
                        expected=f"COL {recipe.columns[0].raw} VAL ...",
                        found=text,
                        fix="correct columns in the recipe",
                    )
                records = sides[side]
                values = dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))
                pair[f"{side}_id"] = records.setdefault(text, {"id": f"{side[0]}{len(records)}"} | values)["id"]
            pairs.append(pair)
        tables[f"pairs_{split}"] = rows_of(pairs, ["left_id", "right_id", "label"])
    columns = ["id", *(column.raw for column in recipe.columns)]
    return {side: rows_of(list(records.values()), columns) for side, records in sides.items()} | tables


def wdc_pairs(recipe: Recipe, raw: Raw, seed: int) -> Tables:
    """Lines of JSON with both offers of a pair in full (``id_left``, ``title_left``, ..., ``label``)."""
    offers: dict[str, Row] = {}
    tables: Tables = {}
    for stem, name in recipe.tables.items():
        pairs = []
        for row in raw.json_lines(raw.find(name)):
            pair = {"label": _key(row, "label", name, recipe)}
            for side in ("left", "right"):
                pair[f"{side}_id"] = offer = str(_key(row, f"id_{side}", name, recipe))
                offers.setdefault(offer, {"id": offer} | {c.raw: row.get(f"{c.raw}_{side}") for c in recipe.columns})
            pairs.append(pair)
        tables[stem] = rows_of(pairs, ["left_id", "right_id", "label"])
    return tables | {"records": rows_of(list(offers.values()), ["id", *(c.raw for c in recipe.columns)])}


def petfinder(recipe: Recipe, raw: Raw, seed: int) -> Tables:
    """Kaggle's train.csv, and pictures named by the pet and a number; only train has labels."""
    columns = [column.raw for column in recipe.columns if column.raw != "Images"]
    pets = raw.table(recipe.tables["all"], [*columns, "PetID", "RescuerID", "AdoptionSpeed"])
    pictures: dict[str, list[tuple[int, str]]] = collections.defaultdict(list)
    for path in raw.match("*-*.jpg"):
        pet, _, number = path.stem.rpartition("-")
        if path.parent.name == "train_images" and number.isdigit():
            pictures[pet].append((int(number), f"train_images/{path.name}"))
    ids = pets["PetID"].to_pylist()
    cells = [";".join(name for _, name in sorted(pictures[pet])) or None for pet in ids]
    return {"all": pets.append_column("Images", pa.array(cells, pa.string()))}


def openmoji(recipe: Recipe, raw: Raw, seed: int) -> Tables:
    """data/openmoji.json and color/svg/*.svg. Emoji of the wanted groups in one skin tone, each drawn as a picture."""
    try:
        svg = importlib.import_module("resvg_py")  # nothing else here needs it
    except ImportError as error:
        raise ConfigError(f"{recipe.name}: its pictures are drawings (SVG). Fix: pip install resvg-py") from error
    size, folder = recipe.settings["picture_size"], raw.scratch / "drawn" / "images"
    folder.mkdir(parents=True)
    rows = []
    for emoji in json.loads(raw.find("data/openmoji.json").read_text(encoding="utf-8")):
        code, group, skin = (_key(emoji, key, "openmoji.json", recipe) for key in ("hexcode", "group", "skintone"))
        if skin or group not in recipe.settings["groups"]:
            continue
        svg_file = raw.find(f"color/svg/{code}.svg")
        drawing = svg_file.read_text(encoding="utf-8")
        (folder / f"{code}.png").write_bytes(bytes(svg.svg_to_bytes(svg_string=drawing, width=size, height=size)))
        facts = {
            "n_codepoints": len(code.split("-")),
            "svg_bytes": svg_file.stat().st_size,
            "n_shapes": len(re.findall(r"<(?:path|circle|ellipse|rect|line|polyline|polygon)\b", drawing)),
            "n_colors": len({color.upper() for color in re.findall(r"#(?:[0-9A-Fa-f]{3}){1,2}\b", drawing)}),
            "image": f"images/{code}.png",
        }
        rows.append({key: str(value) for key, value in (emoji | facts).items()})
    raw.add(folder.parent)
    return {"all": rows_of(rows, sorted({key for row in rows for key in row}))}


def abo_kway(recipe: Recipe, raw: Raw, seed: int) -> Tables:
    """Listings with their product type; types of too few rows are left out, those of many are cut."""
    bounds = recipe.settings["rows_a_class"]
    kinds: dict[str, list[Row]] = collections.defaultdict(list)
    for row in _abo_listings(recipe, raw):
        kinds[row["product_type"]].append(row)
    rng = np.random.default_rng(seed)
    kept: list[Row] = []
    for _, rows in sorted(kinds.items()):
        if len(rows) >= bounds["min"]:
            kept += [rows[i] for i in sorted(rng.permutation(len(rows))[: bounds["max"]])]
    return {"all": rows_of(kept, list(kept[0]) if kept else [])}


def abo_variants(recipe: Recipe, raw: Raw, seed: int) -> Tables:
    """Pairs made for mmtab. A match: two listings of one family (same brand, type and name, but for the words of the
    colour) in different colours. Not a match: a listing and the nearest by name of another family of its brand and
    type."""
    families: dict[str, list[Row]] = collections.defaultdict(list)
    for row in _abo_listings(recipe, raw):
        if row["color"]:
            families[row["family"]].append(row)
    for family, rows in families.items():  # one listing a colour
        families[family] = list({row["color"].lower(): row for row in rows}.values())
    assert recipe.split is not None
    names = sorted(families)
    places = splits.assign(len(names), recipe.split.fractions, seed)
    used: dict[str, Row] = {}
    tables: Tables = {}
    for place, split in enumerate(recipe.split.fractions):
        here = [name for i, name in enumerate(names) if places[i] == place]  # sorted: neighbours are alike
        pairs: list[tuple[Row, Row, str]] = []
        for at, name in enumerate(here):
            rows = families[name]
            pairs += [(left, right, "1") for left, right in itertools.pairwise(rows)]
            near = [here[i] for i in (at - 1, at + 1, at - 2, at + 2) if 0 <= i < len(here)]
            near = [other for other in near if other.rpartition("|")[0] == name.rpartition("|")[0]]
            if len(rows) > 1:
                pairs += [(rows[0], families[other][0], "0") for other in near[: recipe.settings["negatives"]]]
        used |= {row["id"]: row for pair in pairs for row in pair[:2]}
        tables[f"pairs_{split}"] = rows_of(
            [{"left_id": left["id"], "right_id": right["id"], "label": label} for left, right, label in pairs],
            ["left_id", "right_id", "label"],
        )
    return tables | {"records": rows_of(list(used.values()), ["id", *(column.raw for column in recipe.columns)])}


def _abo_listings(recipe: Recipe, raw: Raw) -> list[Row]:
    """Listings named in English, one an item: what is said in several languages as text, measures as numbers."""
    index = raw.table("images.csv.gz", ["image_id", "path"])
    paths = dict(zip(index["image_id"].to_pylist(), index["path"].to_pylist(), strict=True))
    raw.find("listings_0.json.gz")
    listings: dict[str, Row] = {}
    for path in raw.match("listings_*.json.gz"):
        for item in raw.json_lines(path):
            name = _english(item.get("item_name"))
            kind = item.get("product_type")
            kind = kind[0].get("value") if isinstance(kind, list) and kind else kind
            if not name or not kind or item["item_id"] in listings:
                continue
            size = item.get("item_dimensions") or {}
            brand, color = _english(item.get("brand")), _english(item.get("color"))
            colour_words = set(re.findall(r"\w+", (color or "").lower()))
            stem = " ".join(word for word in re.findall(r"\w+", name.lower()) if word not in colour_words)
            picture = paths.get(item.get("main_image_id", ""))
            listings[item["item_id"]] = {
                "id": item["item_id"],
                "product_type": str(kind),
                "family": f"{brand}|{kind}|{stem}",
                "name": name,
                "bullets": _english(item.get("bullet_point"), "\n"),
                "keywords": _english(item.get("item_keywords"), " "),
                "brand": brand,
                "color": color,
                "country": item.get("country"),
                **{key: _english(item.get(key)) for key in ABO_TEXTS},
                "weight": _measure((item.get("item_weight") or [{}])[0]),
                **{key: _measure(size.get(key) or {}) for key in ("height", "width", "length")},
                "image": f"small/{picture}" if picture else None,
            }
    return list(listings.values())


def _english(values: Any, joint: str | None = None) -> str | None:
    """What is said in English, the first of it, or all with ``joint`` between."""
    texts = [
        str(v["value"]) for v in values or [] if str(v.get("language_tag", "en")).startswith("en") and v.get("value")
    ]
    return (joint.join(texts) if joint is not None else texts[0]) if texts else None


def _measure(value: Row) -> str | None:
    number = (value.get("normalized_value") or {}).get("value")
    return None if number is None else str(number)


def _key(row: Row, name: str, where: str, recipe: Recipe) -> Any:
    if row.get(name) is None:
        problem, found = "the raw row lacks this entry", f"entries {sorted(row)}"
        raise DataError(recipe.name, problem, table=where, column=name, found=found)
    return row[name]


FORMS: dict[str, Callable[[Recipe, Raw, int], Tables]] = {
    form.__name__: form for form in (table, deepmatcher, ditto, wdc_pairs, petfinder, openmoji, abo_kway, abo_variants)
}
