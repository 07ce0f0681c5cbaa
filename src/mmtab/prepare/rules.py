"""What type a column has: a table of rules over its facts, of which the first that fits decides."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from mmtab.data.formats import ORDERS
from mmtab.data.schema import ColumnType
from mmtab.prepare.facts import PATTERNS, Facts, reads_as

IGNORE, ID, LABEL = "ignore", "id", "label"
NAMES_PICTURES = 0.9  # share of paths of pictures from which it is remarkable that none of them is found
READABLE = 0.98  # share of numbers or dates from which the odd rest is to be emptied, not the type given up

TRUTHS = {"true", "false", "yes", "no", "t", "f", "y", "n"}
_CODES = (
    "zip zipcode postcode postal plz phone telephone tel mobile fax ean gtin upc isbn issn asin sku code barcode ssn"
    " iban"
)
_COUNTS = (
    "n num number count counts qty quantity total days age years size score rating stars year price cost attack health"
    " popularity amount weight height width length duration version"
)
CODE_NAMES, COUNT_NAMES = set(_CODES.split()), set(_COUNTS.split())
KEY_NAMES = {"id", "ids", "uuid", "guid", "key", "index", "rowid", "identifier", "unnamed"}
TIME_NAMES = {"time", "timestamp", "ts", "date", "epoch", "at"}


@dataclass(frozen=True)
class Guess:
    """One column. ``role``: id, label, ignore, or a column type; ``alternatives``: the second choice."""

    name: str
    role: str
    why: str
    confidence: float  # 0 to 1
    alternatives: str | None = None


def words_of(name: str) -> list[str]:
    """itemCount, item_count -> [item, count]"""
    return [w for w in re.split(r"[\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()) if w]


class Evidence:
    """What the rules look at: a column's facts, and what follows from them and from its name."""

    def __init__(self, facts: Facts) -> None:
        self.facts, self.tally = facts, facts.tally
        self.n, self.filled, self.distinct = facts.n, facts.n_filled, facts.n_distinct
        self.paths, self.numbers, self.dates = facts.share("path"), facts.share("number"), facts.share("moment")
        self.stored, self.example, self.odd = facts.stored, facts.example, facts.odd
        self.name_words = words_of(facts.name)
        self.words = set(self.name_words)
        n_distinct = f"{self.distinct:,}" if facts.counted else f"about {float(f'{self.distinct:.2g}'):,.0f}"
        what = f"{n_distinct} distinct among" if self.distinct > 1 else "the same in all"
        self.few = f"{what} {self.filled:,}"

    def share(self, *counts: str) -> float:
        return self.facts.share(*counts)

    def only(self, values: set[str]) -> bool:
        """Whether all cells are among these few."""
        return not self.facts.many and {value.strip().lower() for value in self.facts.values} <= values

    # what most cells are

    @property
    def is_number(self) -> bool:
        """All cells, or nearly all where the others are markers of missing cells or some numbers are not whole."""
        tally = self.tally
        cleanable = tally["number"] + tally["marker"] == self.filled or tally["whole"] < tally["number"]
        return tally["number"] == self.filled or (self.numbers >= READABLE and cleanable)

    @property
    def is_date(self) -> bool:
        only_markers_beside = self.tally["moment"] + self.tally["marker"] == self.filled
        return self.share("date") > 0.8 and self.dates >= READABLE and only_markers_beside

    @property
    def is_amount(self) -> bool:
        """Whether all cells are numbers written alike in another way than the standard's, and no codes."""
        return bool(self.facts.formats) and self.facts.formats[0] not in ORDERS and not self.words & CODE_NAMES

    @property
    def is_truth(self) -> bool:
        return self.stored == "truth" or self.only(TRUTHS)

    @property
    def unique(self) -> bool:
        return self.distinct > 0.98 * self.filled and self.filled >= 20

    @property
    def key(self) -> bool:
        """Whether the column is called like a key."""
        return bool(self.name_words) and self.name_words[-1] in KEY_NAMES

    # of numbers

    @property
    def whole(self) -> bool:
        # A float column with gaps may be one of integers: pandas has no other way to store their missing cells
        return self.tally["whole"] == self.tally["number"] and (self.stored != "number" or self.filled < self.n)

    @property
    def counts(self) -> bool:
        """Whether the numbers count or measure; years have an order, whatever they are called."""
        return bool(self.words & COUNT_NAMES) or self.tally["year"] == self.filled

    @property
    def compact_dates(self) -> bool:
        dates = self.tally["compact"] == self.tally["moment"] == self.filled and self.stored == "text"
        return dates and (self.filled >= 20 or bool(self.words & TIME_NAMES))

    @property
    def barcodes(self) -> bool:
        return self.share("barcode") == 1 and not self.words & (TIME_NAMES | COUNT_NAMES)

    @property
    def few_whole(self) -> bool:
        return self.whole and not self.counts and self.distinct <= 12

    @property
    def often(self) -> bool:
        return self.filled > 50 * self.distinct

    @property
    def n_odd(self) -> int:
        return self.filled - self.tally["number"]

    @property
    def code_role(self) -> str:
        """What matters of a code: its digits, or its repetitions."""
        return "text" if self.unique and self.tally["characters"] > 5 * self.filled else "categorical"

    @cached_property
    def coded(self) -> str:
        """Why a few whole numbers look like codes, if they do.

        How often a quantity comes has a slope, or a peak with two.
        """
        counts: Counter[int] = Counter()
        for value, times in self.facts.values.items():
            number = reads_as(pa.array([value]), np.array([True]), ColumnType.NUMERIC)[0]
            if number and re.match(PATTERNS["whole"], value):
                counts[int(float(value))] += times
        order = [counts[number] for number in sorted(counts)]
        turns = sum((b - a) * (c - b) < 0 for a, b, c in zip(order, order[1:], order[2:], strict=False))
        if len(order) > 3 and turns >= max(2, (len(order) - 1) // 2):
            return "with no order in how often they come"
        common = [number for number in sorted(counts) if counts[number] >= 0.005 * self.filled]
        if len(common) > 2 and common[-1] - common[0] < 20 and len(range(common[0], common[-1])) > len(common) - 1:
            return f"of which {', '.join(map(str, common))} are common and those between never come or hardly"
        return ""

    # of text

    @property
    def length(self) -> float:
        return self.tally["characters"] / self.filled

    @property
    def n_words(self) -> float:
        return self.tally["words"] / self.filled

    @property
    def repeated(self) -> float:
        return 1 - self.distinct / self.filled

    @cached_property
    def _cleaning(self) -> str:
        tally = self.tally
        if tally["marker"] and self.share("number", "marker") == 1 and tally["number"]:
            cells = f"{tally['marker']:,} cells such as {self.odd!r}"
            return f"; {tally['number']:,} are numbers, but {cells} would have to be emptied"
        if self.share("number") > 0.5 and self.odd and self.share("date") <= 0.8:
            return f"; {tally['number']:,} are numbers, but cells such as {self.odd!r} are not"
        if self.share("date") > 0.8 and self.dates < 1:
            odd = f"cells such as {self.odd!r} are not" if self.odd else "no one order of day and month fits all"
            return f"; {tally['moment']:,} are dates, but {odd}"
        if self.share("amount", "marker") > 0.95 and self.numbers < 0.9 and self.share("clock") == 0:
            rewritten = "which do not read as numbers before sign, unit and commas are removed"
            return f"; amounts such as {self.odd!r}, {rewritten}"
        return ""

    @property
    def aside(self) -> str:
        paths = " that end like pictures, of which none is found" if self.paths > NAMES_PICTURES else ""
        return self._cleaning or paths

    @property
    def what(self) -> str:
        return f"{self.n_words:.1f} words a cell, {self.few}{self.aside}"

    @property
    def few_values(self) -> bool:
        return self.distinct <= max(50, 0.02 * self.filled) and self.filled >= 2 * self.distinct

    @property
    def repeats(self) -> bool:
        return (self.n_words <= 2.5 and self.repeated > 0.35) or (self.n_words <= 5 and self.repeated > 0.75)

    @property
    def cleaned(self) -> str:
        """What the column would be after some cells were emptied or rewritten, if that makes a difference."""
        return "" if not self._cleaning else "datetime" if self.share("date") > 0.8 else "numeric"

    @property
    def cleaned_or_text(self) -> str:
        return self.cleaned or "text"

    @property
    def cleaned_or_category(self) -> str:
        return self.cleaned or "categorical"


class Rule(NamedTuple):
    """A column to which the rule applies has this role.

    ``role``, ``alternative`` and ``why`` are templates in which ``c`` is the column's ``Evidence``.
    """

    applies: Callable[[Evidence], bool]
    role: str
    confidence: float
    alternative: str
    why: str


def _when(condition: Callable[[Evidence], bool], *rules: Rule) -> Iterator[Rule]:
    """The rules, which apply only where the condition holds too."""

    def narrowed(rule: Rule) -> Rule:
        return rule._replace(applies=lambda c: condition(c) and rule.applies(c))

    return map(narrowed, rules)


def _always(c: Evidence) -> bool:
    return True


_FOUND = "{c.paths:.0%} are paths of pictures; {c.tally[exists]} of {c.tally[looked]} looked for exist"
_ODD = "{c.numbers:.1%} are numbers, {c.few}; {c.n_odd:,} cells such as {c.odd!r} are not"
_EXAMPLE = ", such as {c.example!r}"
_EACH = "every cell is a number, {c.few}"
_NESTED = "stored as lists, structs, durations or bytes, which are no pictures"
_TWO = "two whole numbers only ({c.few})"
_TIMES = "times such as {c.example!r}, without a date ({c.few})"
_OWN_NAME = "a name of its own for each row, {c.few}"
_REPEATED_KEY = "whole numbers under a name of keys, said again and again ({c.few})"

# applies, role, confidence, alternative, why
STORED = (
    Rule(lambda c: c.stored == "picture", "image", 0.99, "", "{c.filled:,} cells hold pictures"),
    Rule(lambda c: c.stored in ("other", "bytes"), IGNORE, 0.9, "", _NESTED),
    Rule(lambda c: c.filled == 0, IGNORE, 0.9, "", "every cell is missing"),
    Rule(lambda c: c.stored == "moment", "datetime", 0.99, "", "stored as dates or times"),
    Rule(lambda c: c.is_truth, "categorical", 0.97, "", "true or false ({c.few})"),
)
PATHS = (
    Rule(lambda c: c.tally["exists"] == c.tally["looked"], "image", 0.97, "text", _FOUND),
    Rule(_always, "image", 0.7, "text", _FOUND),
)
CODES = tuple(  # whole numbers that are names written in digits
    Rule(applies, "{c.code_role}", confidence, "numeric", why + _EXAMPLE + " ({c.few})")
    for applies, confidence, why in (
        (lambda c: c.share("code") > 0.01, 0.85, "digits with leading zeros: codes, not quantities"),
        (lambda c: c.share("long") > 0.01, 0.8, "more digits than a number holds exactly"),
        (lambda c: bool(c.words & CODE_NAMES), 0.8, "whole numbers under a name of codes"),
        (lambda c: c.barcodes, 0.6, "12 to 14 digits in every cell, as in barcodes"),
    )
)
KEYS = (
    Rule(lambda c: c.unique, IGNORE, 0.7, "numeric", "whole numbers under a name of keys, {c.few}"),
    Rule(_always, "categorical", 0.6, "numeric", _REPEATED_KEY),
)
FEW_NUMBERS = (
    Rule(lambda c: c.only({"0", "1"}), "categorical", 0.8, "numeric", "0 or 1: no or yes ({c.few})"),
    Rule(lambda c: c.distinct == 2 and c.filled > 20, "categorical", 0.7, "numeric", _TWO),
    Rule(lambda c: c.often and bool(c.coded), "categorical", 0.6, "numeric", "few whole numbers, {c.coded} ({c.few})"),
)
NUMBERS = (
    Rule(lambda c: c.compact_dates, "datetime", 0.8, "numeric", "every cell is a date without separators" + _EXAMPLE),
    *_when(lambda c: c.whole, *CODES),
    *_when(lambda c: c.whole and c.key and not c.words & COUNT_NAMES, *KEYS),
    *_when(lambda c: c.few_whole and c.distinct > 1, *FEW_NUMBERS),
    Rule(lambda c: 0 < c.n_odd == c.tally["marker"], "numeric", 0.7, "text", _ODD),
    Rule(lambda c: c.n_odd > 0, "numeric", 0.55, "text", _ODD),
    Rule(lambda c: c.few_whole and c.often, "numeric", 0.75, "categorical", _EACH),
    Rule(_always, "numeric", 0.95, "", _EACH),
)
AMOUNTS = "every cell is a number as in {c.facts.formats[0]!r}, {c.few}"
DATES = (
    Rule(lambda c: c.tally["moment"] == c.filled, "datetime", 0.95, "text", "every cell is a date" + _EXAMPLE),
    Rule(_always, "datetime", 0.7, "text", "{c.dates:.1%} are dates, such as {c.example!r}"),
)
LONG = (
    Rule(lambda c: c.distinct <= 30 and c.often, "categorical", 0.6, "text", "long, but only {c.few}"),
    Rule(_always, "text", 0.95, "", "{c.what}"),
)
REPEATED = (
    # Names of persons and products are on the fence.
    Rule(lambda c: c.n_words > 2 and c.repeated < 0.5, "categorical", 0.6, "{c.cleaned_or_text}", "{c.what}"),
    Rule(lambda c: c.n_words <= 2.5, "categorical", 0.8, "{c.cleaned_or_text}", "{c.what}"),
    Rule(_always, "categorical", 0.7, "{c.cleaned_or_text}", "{c.what}"),
)
WORDS = (
    # As categories 3:45 and 3:46 share nothing, and without a date they are no moments.
    Rule(lambda c: c.share("clock") > 0.95, "text", 0.7, "categorical", _TIMES),
    Rule(lambda c: c.key and c.unique and c.n_words < 1.01, IGNORE, 0.6, "text", _OWN_NAME),
    *_when(lambda c: c.length > 60 or c.n_words > 9, *LONG),
    Rule(lambda c: c.few_values, "categorical", 0.95, "{c.cleaned}", "{c.few}{c.aside}"),
    # A category repeats the same few words; a text repeats seldom, or is long.
    *_when(lambda c: c.repeats, *REPEATED),
    Rule(lambda c: c.n_words > 3, "text", 0.85, "{c.cleaned_or_category}", "{c.what}"),
    Rule(_always, "text", 0.65, "{c.cleaned_or_category}", "{c.what}"),
)
RULES = (  # in the order in which they are tried, the surest first
    *STORED,
    *_when(lambda c: c.paths > READABLE and c.tally["exists"] > 0, *PATHS),
    Rule(lambda c: c.is_amount, "numeric", 0.85, "categorical", AMOUNTS),
    *_when(lambda c: c.is_number, *NUMBERS),
    *_when(lambda c: c.is_date, *DATES),
    *WORDS,
)


def guess_type(facts: Facts) -> Guess:
    """What the first rule that applies decides."""
    c = Evidence(facts)
    rule = next(rule for rule in RULES if rule.applies(c))
    role, alternative, why = (text.format(c=c) for text in (rule.role, rule.alternative, rule.why))
    why += f", {1 - c.filled / c.n:.1%} missing" if 0 < c.filled < c.n else ""
    few_rows = 0 < c.filled < 20 and c.stored in ("text", "whole")
    confidence = min(rule.confidence, 0.6) if few_rows else rule.confidence
    return Guess(facts.name, role, why, confidence, alternative or None)
