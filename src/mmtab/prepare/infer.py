"""What the columns of raw tables are, judged by their values, with a reason for each and a confidence.

The tables are read once, in batches; what is remembered of a column is of bounded size (``prepare.facts``), whatever
the rows. The first rule of ``prepare.rules`` that applies gives a column its type. Only a column that may be the id is
read a second time, should its distinct values be too many to have been counted exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from mmtab.data import files
from mmtab.data.cells import canonical
from mmtab.data.formats import ORDERS, check_format, style_of
from mmtab.data.objects import SPLITS
from mmtab.data.schema import METRICS, Column, ColumnType, Schema, TaskKind
from mmtab.data.spelling import seeming_same
from mmtab.data.table import read_batches
from mmtab.prepare.facts import Facts, facts_of, is_unique
from mmtab.prepare.rules import ID, IGNORE, KEY_NAMES, LABEL, NAMES_PICTURES, TRUTHS, Guess, guess_type, words_of
from mmtab.utils.errors import DataError

ID_NAMES = KEY_NAMES | {"sku", "asin", "ean", "isbn", "gtin", "upc"}
MANY_NUMBERS = 20, 100  # different ones of a label, from which on it is a quantity: of fractions, of whole numbers
LABEL_NAMES = ["label", "target", "class", "y", "category", "genre", "type", "kind", "group", "outcome", "species"]
NOT_NUMBERS = "choose another label, or say task=kway"
Fail = Callable[..., DataError]


@dataclass(frozen=True)
class Proposal:
    """A schema, why, and what else the user should know."""

    schema: Schema
    guesses: tuple[Guess, ...]
    notes: tuple[str, ...]


def infer(
    tables: dict[str, Path],
    *,
    name: str,
    task: str | None = None,
    id: str | None = None,
    label: str | None = None,
    types: dict[str, str] | None = None,
    formats: dict[str, Any] | None = None,
    image_roots: Mapping[str, Path] | None = None,
) -> Proposal:
    """Propose a schema for raw tables.

    ``tables`` maps what a table is (rows; train, valid, test; left, right or records, and pairs …) to its file. What
    the user says (``task``, ``id``, ``label``, ``types`` and ``formats`` by column) wins. A proposed type can be read:
    every cell of a numeric or datetime column parses, or a note says which do not and what to do. ``image_roots``:
    where paths of pictures start, by table; by default the folder of the table.

    Raises DataError for a column that the user names and no table has, and where no label can be guessed.
    """
    types = dict(types or {})
    rows = {stem: path for stem, path in tables.items() if not stem.startswith("pairs")}
    fail: Fail = partial(DataError, name, table=", ".join(rows or tables))
    kind = _task_of(tables, rows, task, fail)
    roots = {stem: path.parent for stem, path in rows.items()} | dict(image_roots or {})
    by_table = {stem: facts_of(path, name, roots[stem]) for stem, path in rows.items()}
    facts: dict[str, Facts] = {}
    for columns_of_table in by_table.values():
        for column, more in columns_of_table.items():
            facts[column] = facts[column].merged(more) if column in facts else more
    if kind is TaskKind.MATCHING and label not in (None, "label"):
        problem = "the answers of a matching dataset are in its pairs, as 'label'"
        raise fail(problem, column=label, fix="leave label out")
    label = None if kind is TaskKind.MATCHING else label
    _check_user(facts, [id, label, *types, *(formats or {})], types, fail)

    guesses = {column: guess_type(of_column) for column, of_column in facts.items()}
    if kind is TaskKind.MATCHING and len(by_table) > 1:
        guesses = {column: _agreed(guess, by_table) for column, guess in guesses.items()}
    guesses |= {column: Guess(column, role, "you said so", 1.0) for column, role in types.items()}

    def unique(column: str) -> bool:
        tables_unique = (is_unique(by_table[stem][column], path, name) for stem, path in rows.items())
        return all(column in by_table[stem] for stem in rows) and all(tables_unique)

    notes: list[str] = []
    if {"left", "right"} <= set(by_table):
        notes += _named_apart(by_table["left"], by_table["right"])
    said = id is not None
    if kind is TaskKind.MATCHING and (id := id or _id_of_pairs(tables, facts, name)):
        for path in rows.values():  # an id that repeats is an error, not a reason to take another column
            for _ in read_batches(path, Schema(name, kind, (), id=id)):
                pass
    key = _find_id(facts, guesses, id, {label, *types}, unique, kind, notes)
    key = key if said or id is None else replace(key, why="it has the ids of the pairs")
    guesses[key.name] = key
    if kind is not TaskKind.MATCHING:
        target = _find_label(facts, guesses, label, set(types), fail)
        quantity = _is_quantity(facts[target.name], guesses[target.name])
        if kind is TaskKind.REGRESSION and guesses[target.name].role != ColumnType.NUMERIC:
            found, expected = f"{guesses[target.name].role}: {guesses[target.name].why}", "numbers"
            raise fail("the label of regression", column=target.name, expected=expected, found=found, fix=NOT_NUMBERS)
        if task is None and quantity:
            kind = TaskKind.REGRESSION
        if quantity and (kind is not TaskKind.REGRESSION or (task is None and _is_whole(facts[target.name]))):
            notes += _of_quantity(kind, facts[target.name])
        if kind is TaskKind.REGRESSION:
            target = replace(target, why=target.why.replace(" classes", " different numbers"))
        guesses[target.name] = target
        if label is None:
            notes.append(f"the label is a guess: {target.name!r}. Say label=COLUMN if it is another")
    for guess in guesses.values():
        notes += _warnings(facts[guess.name], guess) if guess.name in facts else []
    columns = tuple(Column(g.name, ColumnType(g.role)) for g in guesses.values() if g.role in list(ColumnType))
    numbers = (Column(target.name, ColumnType.NUMERIC),) if kind is TaskKind.REGRESSION else ()
    written = _formats((*columns, *numbers), facts, dict(formats or {}), name, notes)
    if not columns:
        raise fail("no column is left to learn from", found=f"columns {list(facts)}", fix="give more columns, or types")
    label = next((g.name for g in guesses.values() if g.role == LABEL), None)
    schema = Schema(name, kind, columns, id=key.name, metric=METRICS[kind][0], label=label, formats=written)
    return Proposal(Schema.from_dict(schema.to_dict()), tuple(guesses.values()), tuple(notes))


def _task_of(tables: dict[str, Path], rows: dict[str, Path], task: str | None, fail: Fail) -> TaskKind:
    if task is not None and task not in list(TaskKind):
        raise fail("task", expected=" or ".join(TaskKind), found=task, fix="say one of them")
    if not rows:
        raise fail("no table of rows beside the pairs", fix="add rows, or left and right, or records")
    if task is not None:
        return TaskKind(task)
    has_pairs = len(rows) < len(tables) or {"left", "right", "records"} & set(rows)
    return TaskKind.MATCHING if has_pairs else TaskKind.KWAY


def _check_user(facts: dict[str, Facts], named: list[str | None], types: dict[str, str], fail: Fail) -> None:
    for column in named:
        if column is not None and column not in facts:
            fix = "correct id, label or types"
            raise fail("no table has this column", column=column, found=f"columns {list(facts)}", fix=fix)
    roles = [*map(str, ColumnType), IGNORE]
    for column, role in types.items():
        if role not in roles:
            expected = f"one of {roles}"
            raise fail("unknown column type", column=column, found=role, expected=expected, fix="correct types")


def _agreed(guess: Guess, by_table: dict[str, dict[str, Facts]]) -> Guess:
    """Say where the tables differ. The guess comes from the cells of all, so that it reads in each of them."""
    sides = {stem: guess_type(facts[guess.name]).role for stem, facts in by_table.items() if guess.name in facts}
    if len(set(sides.values()) - {IGNORE}) > 1:
        alone = ", ".join(f"{stem} alone {role}" for stem, role in sides.items())
        return replace(guess, why=f"{guess.why}; {alone}", confidence=min(guess.confidence, 0.6))
    if len(sides) < len(by_table):
        return replace(guess, why=f"{guess.why}; only in {', '.join(sides)}")
    return guess


def _named_apart(left: dict[str, Facts], right: dict[str, Facts]) -> Iterator[str]:
    only_left, only_right = (", ".join(sorted(set(a) - set(b))) for a, b in ((left, right), (right, left)))
    if only_left and only_right:
        advice = "columns that mean the same should have one name"
        yield f"only left has {only_left}, only right {only_right}; {advice}"


def _is_whole(facts: Facts) -> bool:
    return facts.stored == "whole" or facts.tally["whole"] == facts.n_filled


def _is_quantity(facts: Facts, guess: Guess) -> bool:
    """Whether a label is rather a number than the name of a class."""
    return guess.role == ColumnType.NUMERIC and facts.n_distinct > MANY_NUMBERS[_is_whole(facts)]


def _of_quantity(kind: TaskKind, facts: Facts) -> Iterator[str]:
    numbers = f"the label {facts.name} has {facts.n_distinct:,} different numbers"
    if kind is TaskKind.REGRESSION:
        yield f"{numbers}, so the task is regression; if they are names of classes, say task=kway"
    else:
        yield f"{numbers}, each of which is a class of its own; if it is a quantity, say task=regression"


def _formats(
    columns: tuple[Column, ...], facts: dict[str, Facts], given: dict[str, str], dataset: str, notes: list[str]
) -> dict[str, str]:
    """How raw cells of numbers and dates are written, by column. Columns of one table are written alike, so that those
    of which the cells prove a format decide for those of which they allow several."""
    kinds = {column.name: column.type for column in columns}
    for name, text in given.items():
        check_format(dataset, name, kinds.get(name), text)
    fits: dict[str, list[str]] = {}
    for name, kind in kinds.items():
        if kind in (ColumnType.NUMERIC, ColumnType.DATETIME) and name not in given:
            wanted = kind is ColumnType.DATETIME
            fits[name] = [text for text in facts[name].formats if (text in ORDERS) == wanted]
    proven = {style_of(texts[0]) for texts in fits.values() if len(texts) == 1} | set(map(style_of, given.values()))
    for name, texts in fits.items():
        if not texts:
            continue
        given[name] = next((text for text in texts if style_of(text) in proven), texts[0])
        if others := [text for text in texts if text != given[name]]:
            cell, setting = facts[name].example, f"{name}={others[0]}"
            notes.append(
                f"{name}: cells such as {cell!r} are ambiguous and read as {given[name]!r}; if that is wrong, say"
                f" formats={{{name!r}: {others[0]!r}}} (--format {setting!r})"
            )
    return given


def _warnings(facts: Facts, guess: Guess) -> Iterator[str]:
    tally = facts.tally
    if guess.role == IGNORE and guess.confidence < 1:
        yield f"{facts.name}: left out; {guess.why}"
    kind = {"numeric": "number", "datetime": "moment"}.get(guess.role)
    n_odd = facts.n_filled - tally[kind] if kind else 0
    # Where the user chose the type, cells may read that no pattern expects: truths as numbers, "May 2014" as a date
    truths = facts.example.strip().lower() in TRUTHS
    expected = kind is not None and (bool(tally[kind]) or (kind == "number" and not truths))
    if n_odd and expected and facts.stored == "text" and not facts.formats:
        cells = f"{n_odd:,} cells such as {facts.odd!r} are no {kind}s"
        yield f"{facts.name}: {cells}: empty them, or set dataset.bad_cells=missing"
    elif guess.alternatives in ("numeric", "datetime") and tally["marker"] and guess.role != ColumnType.NUMERIC:
        yield f"{facts.name}: empty the cells such as {facts.odd!r}, and it is {guess.alternatives}"
    elif guess.alternatives in ("numeric", "datetime") and guess.role in ("text", "categorical"):
        yield f"{facts.name}: taken as {guess.role}, not as {guess.alternatives}; {guess.why}"
    if guess.role == ColumnType.IMAGE and tally["exists"] < tally["looked"]:
        n_absent = tally["looked"] - tally["exists"]
        yield f"{facts.name}: {n_absent} of {tally['looked']} pictures looked for are not there"
    if guess.role in ("text", "categorical") and guess.confidence < 1 and facts.share("path") > NAMES_PICTURES:
        why = "though its cells end like paths of pictures, for none of these is found"
        fix = "where they start says image_root of fit, else the folder of the table"
        yield f"{facts.name}: taken as {guess.role}, {why}; {fix}"
    if guess.role == LABEL and len(facts.values) == 1:
        yield f"{facts.name}: the label has one class only"
    if guess.role == "categorical" and len(facts.values) > 1 and {v.lower() for v in facts.values} <= SPLITS.keys():
        fix = "if it tells which rows are which, give train, valid and test as tables of their own, without it"
        yield f"{facts.name}: its values name splits, and it is taken as a feature; {fix}"
    if guess.role in (LABEL, "categorical"):
        for group in seeming_same(facts.values)[:3]:
            names = " and ".join(f"{value!a}" for value in group)
            yield f"{facts.name}: {names} seem one value, and may be told apart; write them alike"


# --- the id and the label --------------------------------------------------------------------------------------------


def _id_of_pairs(tables: dict[str, Path], facts: dict[str, Facts], dataset: str) -> str | None:
    """The column that most ids of the first pairs are cells of; None where there are no pairs, or none such."""
    pairs = next((path for stem, path in tables.items() if stem.startswith("pairs")), None)
    side = next((side for side in ("records", "left") if side in tables), None)
    if pairs is None or side is None or "left_id" not in files.header(pairs, dataset).names:
        return None
    batch = next((batch for batch in files.scan(pairs, dataset, columns=["left_id"]) if len(batch)), None)
    if batch is None:
        return None
    asked = canonical(batch[0].slice(0, 1000), ColumnType.CATEGORICAL)[0].unique()
    header = files.header(tables[side], dataset).names
    columns = [name for name in header if facts[name].stored in ("text", "whole", "number")]
    seen = {name: np.zeros(len(asked), bool) for name in columns}
    for batch in files.scan(tables[side], dataset, columns=columns):
        for name in columns:
            cells = canonical(batch[name], ColumnType.CATEGORICAL)[0]
            seen[name] |= np.asarray(pc.is_in(asked, value_set=cells, skip_nulls=True))
    best = max(columns, key=lambda name: seen[name].sum(), default=None)
    return best if best is not None and seen[best].sum() > len(asked) / 2 else None


def _find_id(
    facts: dict[str, Facts],
    guesses: dict[str, Guess],
    chosen: str | None,
    taken: set[str | None],
    unique: Callable[[str], bool],
    kind: TaskKind,
    notes: list[str],
) -> Guess:
    """The column that names the rows, or a new one that will number them. ``chosen``: by the user."""
    if chosen is not None:
        notes += [] if unique(chosen) else [f"{chosen}: you said it is the id, but some row lacks it or repeats it"]
        return Guess(chosen, ID, "you said so", 1.0)
    candidates = (guess for guess in _id_candidates(facts, guesses) if guess.name not in taken)
    key = next((guess for guess in candidates if unique(guess.name)), None)
    if key is None:
        names = ("id", "row_id", *(f"row_id_{i}" for i in range(len(facts))))
        why = "no column names each row once, so this one numbers them"
        key = Guess(next(name for name in names if name not in facts), ID, why, 1.0)
        if kind is TaskKind.MATCHING:
            notes.append(f"{key.name}: {why}: write it into the pairs too")
    return key


def _id_candidates(facts: dict[str, Facts], guesses: dict[str, Guess]) -> list[Guess]:
    """Columns that may name the rows, the likeliest first: by their names, then by their places."""
    scored: list[tuple[float, Guess]] = []
    for place, (column, of_column) in enumerate(facts.items()):
        complete = of_column.n_filled == of_column.n > 0
        if not complete or of_column.stored not in ("text", "whole") or guesses[column].role in ("image", "datetime"):
            continue
        words = words_of(column)
        named = bool(set(words) & ID_NAMES)
        if not named and (place > 0 or not _numbers_rows(of_column)):
            continue
        why = f"{of_column.n:,} cells, all different" + (", and its name says so" if named else "")
        score = 4.0 * (column.lower() == "id") + 2 * named + (words[-1:] == ["id"]) + (place == 0)
        score -= 2 * ("unnamed" in words) + place / len(facts)
        scored.append((score, Guess(column, ID, why, 0.95 if named else 0.7)))
    return [guess for _, guess in sorted(scored, key=lambda pair: -pair[0])]


def _numbers_rows(facts: Facts) -> bool:
    """Whether the cells are one word each, or count the rows."""
    whole = facts.tally["whole"] == facts.n
    numbers = sorted(float(value) for value in facts.values) if whole else []
    counts = not numbers or (numbers[0] in (0.0, 1.0) and numbers[-1] - numbers[0] == len(numbers) - 1)
    words_only = facts.tally["number"] == 0 and not facts.formats and facts.tally["words"] <= 1.01 * facts.n
    return facts.n >= 3 and (words_only or (counts and whole))


def _find_label(
    facts: dict[str, Facts], guesses: dict[str, Guess], chosen: str | None, typed: set[str], fail: Fail
) -> Guess:
    """The label column. ``chosen``: by the user, who gave the ``typed`` columns a type."""
    if chosen is not None:
        if guesses[chosen].role == ID:
            raise fail("the id cannot be the label", column=chosen, fix="choose another label")
        return Guess(chosen, LABEL, f"you said so; {facts[chosen].n_distinct:,} classes", 1.0)
    best: tuple[float, Guess] | None = None
    for place, (column, of_column) in enumerate(facts.items()):
        distinct, last = of_column.n_distinct, place == len(facts) - 1
        unfit = column in typed or guesses[column].role in (ID, IGNORE, "image", "datetime")
        if unfit or not 2 <= distinct <= max(2, min(1000, of_column.n_filled // 3)):
            continue
        rank = LABEL_NAMES.index(column.lower()) if column.lower() in LABEL_NAMES else None
        part = next((i for i, word in enumerate(LABEL_NAMES) if word in words_of(column)), None)
        if rank is None and part is None and guesses[column].role in ("numeric", "text"):
            continue
        by_name = 20 - rank if rank is not None else 5 - part / 10 if part is not None else 0
        score = by_name + 3 * last + place / len(facts)
        confidence = 0.4
        if rank is not None or (part is not None and last):
            confidence = 0.9 if rank == 0 or (rank is not None and last) else 0.7
        reasons = [*(["its name"] if by_name else []), *(["it comes last"] if last else [])]
        why = " and ".join(reasons) or "no name or place speaks for it, but nothing better was found"
        if best is None or score > best[0]:
            guess = Guess(column, LABEL, f"{distinct:,} classes; {why}", confidence, guesses[column].role)
            best = score, guess
    if best is None:
        raise fail("no column looks like a label", found=f"columns {list(facts)}", fix="say label=COLUMN")
    return best[1]
