"""The page of matches: both rows with their pictures and reasons, safe from what cells hold, and usable on a phone."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import toy_data
from pages import Seen

from mmtab.config.types import MatchConfig
from mmtab.data.pairs import read_records
from mmtab.data.schema import Schema
from mmtab.data.table import Table
from mmtab.matching.pipeline import match
from mmtab.reports.clusters import ShownCluster, ShownRecord, shown_clusters
from mmtab.reports.matches import ShownPair, write_page
from mmtab.reports.rows import one_row

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--window-size=1400,1000",
    "--dump-dom",
]
EVIL = "<script>alert(1)</script> \"'&<img src=x onerror=alert(2)>\x00"


def pair(left: Table, right: Table, score: float = 0.9, **changes: Any) -> ShownPair:
    reasons = {"label": {"title": 1.26, "size": -0.7, "colour": 0.01}}
    shown = ShownPair((left, 0), (right, 0), {"label": score}, {"label": 0.5}, reasons, "sure match", {"label": 3})
    return replace(shown, **changes)


@pytest.fixture
def toys(tmp_path: Path) -> tuple[Schema, list[Table]]:
    """Records of which i and 10 + i are the same thing, as tables of one row."""
    folder = toy_data.write_pairs(tmp_path / "toys", n=10)
    schema = Schema.read(folder)
    table = read_records(folder, schema).table
    return schema, [one_row(table, row) for row in range(len(table))]


def with_cells(table: Table, **cells: object) -> Table:
    columns = {name: pa.array([cells[name]]) if name in cells else column for name, column in table.columns.items()}
    return replace(table, columns=columns)


def rendered(path: Path, schema: Schema, *shown: ShownPair, title: str = "toys", facts: Any = ()) -> tuple[str, Seen]:
    write_page(path, schema, shown, title, facts)
    text = path.read_text(encoding="utf-8")
    return text, Seen(text)


def card(text: str) -> str:
    """The first card as the reader sees it, without tags."""
    article = re.search(r"<article.*?</article>", text, re.S)
    assert article
    return re.sub(r"<[^>]*>", " ", article[0])


def test_both_rows_stand_side_by_side_with_reasons(tmp_path: Path, toys: tuple[Schema, list[Table]]) -> None:
    schema, rows = toys
    left = with_cells(rows[1], title="red lamp no. 7", size=3.0, colour="red")
    right = with_cells(rows[11], title="lamp no. 7 with shade", size=4.25, colour=None)
    text, seen = rendered(tmp_path / "page.html", schema, pair(left, right), facts=[("candidates", "12,345")])
    shown = card(text)
    assert "candidates" in seen.text and "12,345" in seen.text and "sure match" in seen.text
    assert "90.0 %" in shown and "✓ match" in shown and "cluster 3" in shown and "label" not in shown
    assert "spoke for:  +1.3" in shown and "spoke against:  −0.7" in shown and "said little:  +0.0" in shown
    assert "<mark>red</mark> lamp no. 7<" in text and "lamp no. 7 <mark>with shade</mark>" in text
    assert "<mark>3</mark>" in text and "<mark>4.25</mark>" in text
    cells = [c[0].as_py() for row in (left, right) for name, c in row.columns.items() if name != "colour"]
    assert ">red<" in text and text.count("—") == 1 + cells.count(None)
    assert 'data-called="1" data-scores="0.9"' in text
    text, _ = rendered(tmp_path / "page.html", schema, pair(left, right, 0.499, clusters={"label": -1}))
    assert "✗ no match" in card(text) and "two clusters" in card(text)


def test_a_column_missing_on_both_sides_is_named_once(tmp_path: Path, toys: tuple[Schema, list[Table]]) -> None:
    schema, rows = toys
    sides = [with_cells(row, made=None, size=None) for row in rows[:2]]
    text, _ = rendered(tmp_path / "page.html", schema, pair(*sides))
    assert "in neither: made" in card(text)  # of size there is a reason to tell
    assert card(text).count("size") == 1 and "in neither: made, size" not in card(text)


def test_a_long_text_folds_and_a_text_of_other_words_is_not_spotted(
    tmp_path: Path, toys: tuple[Schema, list[Table]]
) -> None:
    schema, rows = toys
    long = "many words about a lamp " * 60
    text, seen = rendered(
        tmp_path / "page.html", schema, pair(with_cells(rows[0], title=long), with_cells(rows[1], title="kettle"))
    )
    assert len(seen.having("details")) == 1 and seen.text.count("many words") == 60
    assert text.count('class="apart"') == 2 and "<mark>kettle" not in text


def test_the_page_stands_alone(tmp_path: Path, toys: tuple[Schema, list[Table]]) -> None:
    schema, rows = toys
    text, seen = rendered(tmp_path / "page.html", schema, *(pair(rows[i], rows[10 + i]) for i in range(10)))
    sources = [image["src"] or "" for image in seen.having("img")]
    assert len(sources) >= 15 and all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert all(image["alt"] for image in seen.having("img"))
    assert not re.search(r"https?:|file:|//[a-z]|url\(|@import", text)
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in seen.tags}
    assert all(set(attributes) <= {"src", "alt"} for attributes in seen.having("img"))
    assert [meta for meta in seen.having("meta") if "default-src 'none'" in (meta.get("content") or "")]


def test_nothing_from_data_breaks_the_page(tmp_path: Path, toys: tuple[Schema, list[Table]]) -> None:
    schema, rows = toys
    raw = schema.to_dict()
    schema = Schema.from_dict(raw | {"columns": raw["columns"] | {EVIL: "text"}, "id": f"{EVIL} id"})
    evil = [
        with_cells(
            replace(row, ids=pa.array([EVIL]), columns=row.columns | {EVIL: pa.array([EVIL])}),
            title=f"{EVIL} {i}",
            colour=f"{EVIL} {i}",
        )
        for i, row in enumerate(rows[:2])
    ]
    shown = pair(
        *evil,
        scores={EVIL: 0.7, "b": 0.2},
        thresholds={EVIL: 0.5, "b": 0.5},
        clusters={},
        reasons={EVIL: {EVIL: 1.0, "title": 2.0, EVIL * 2: 1.0}},
        group=EVIL,
    )
    text, seen = rendered(tmp_path / "page.html", schema, shown, title=EVIL, facts=[(EVIL, EVIL)])
    assert len(seen.having("script")) == 1 and "alert" not in text[text.index("<script>") :]
    assert not any(name.startswith("on") for _, attributes in seen.tags for name in attributes)
    assert all((image["src"] or "").startswith("data:") for image in seen.having("img"))
    assert seen.text.count("<script>alert(1)") >= 10 and "\x00" not in text
    assert {tag for tag, _ in seen.tags if tag in ("title", "h1")} == {"title", "h1"}


def test_a_damaged_picture_is_a_word(tmp_path: Path, toys: tuple[Schema, list[Table]]) -> None:
    schema, rows = toys
    for path in (tmp_path / "toys" / "images").iterdir():
        path.write_bytes(b"no picture")
    text, seen = rendered(tmp_path / "page.html", schema, pair(rows[1], rows[2]))
    assert "cannot be opened" in card(text) and not seen.having("img")


def test_two_relations_have_their_own_scores_and_reasons(tmp_path: Path, toys: tuple[Schema, list[Table]]) -> None:
    schema, rows = toys
    schema = Schema.from_dict(schema.to_dict() | {"relations": {"duplicate": {}, "variant": {"ignore": ["colour"]}}})
    changes: dict[str, Any] = {
        "scores": {"duplicate": 0.2, "variant": 0.8},
        "thresholds": {"duplicate": 0.5, "variant": 0.6},
        "reasons": {"duplicate": {"colour": -2.0, "title": 1.0}, "variant": {"title": 1.5}},
        "clusters": {"duplicate": -1, "variant": 4},
    }
    text, seen = rendered(tmp_path / "page.html", schema, pair(rows[1], rows[2], **changes))
    assert re.search(r"duplicate\s+20\.0 %\s+✗ no match\s+two clusters", card(text))
    assert re.search(r"variant\s+80\.0 %\s+✓ match\s+cluster 4", card(text))
    assert re.search(r"colour\s+duplicate\s+spoke against:\s+−2\.0\s+variant\s+may differ", card(text))
    assert 'data-called="0 1" data-scores="0.2 0.8"' in text
    options = [option["value"] for option in seen.having("option")]
    assert {"0 1", "0 0", "1 1", "1 0"} <= set(options)
    one = replace(pair(rows[3], rows[4], **changes), scores={"variant": 0.8})  # asked of one relation only
    text, _ = rendered(tmp_path / "page.html", schema, pair(rows[1], rows[2], **changes), one)
    assert 'data-called="- 1" data-scores="- 0.8"' in text
    text, _ = rendered(tmp_path / "page.html", schema, one)
    assert re.search(r"variant\s+80\.0 %\s+✓ match", card(text)) and "duplicate" not in card(text)


def test_a_page_is_written_at_once_or_not_at_all(
    tmp_path: Path, toys: tuple[Schema, list[Table]], monkeypatch: pytest.MonkeyPatch
) -> None:
    schema, rows = toys
    path = tmp_path / "deep" / "page.html"
    before, _ = rendered(path, schema, pair(rows[0], rows[1]))

    def full(self: Path, text: str, encoding: str) -> int:
        self.write_bytes(text[:100].encode())
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space"):
        write_page(path, schema, [pair(rows[2], rows[3])], "another", [])
    assert path.read_text(encoding="utf-8") == before and [p.name for p in path.parent.iterdir()] == ["page.html"]


def test_no_pairs_make_a_page_too(tmp_path: Path, toys: tuple[Schema, list[Table]]) -> None:
    text, seen = rendered(tmp_path / "page.html", toys[0], facts=[("matches", "0")])
    assert "no pairs" in seen.text and not seen.having("article") and not seen.having("form")
    assert "</body></html>" in text


# Holds the page in a frame, because a headless window is never narrower than 500 px, and notes what it does there
PROBE = """<!doctype html><iframe width="WIDTH" height="900" style="border:0" srcdoc="PAGE"></iframe><script>
document.querySelector('iframe').addEventListener('load', event => {
  const frame = event.target.contentWindow, page = frame.document, form = page.forms[0], seen = {};
  const set = values => {
    for (const [name, value] of Object.entries({group: '', verdict: '', score: '', words: '', ...values}))
      form.elements[name].value = value;
    form.dispatchEvent(new Event('input'));
    return [...page.querySelectorAll('article:not([hidden])')].filter(card => !card.parentNode.hidden)
      .map(card => card.dataset.scores);
  };
  for (const fold of page.querySelectorAll('details')) fold.open = true;
  for (const card of page.querySelectorAll('article')) card.style.contentVisibility = 'visible';
  seen.widths = [page.documentElement.scrollWidth, page.documentElement.clientWidth, frame.innerWidth];
  seen.form = !form.hidden;
  seen.all = set({});
  seen.group = set({group: '1'});
  seen.verdict = set({verdict: '1 1'});
  seen.bars = [...page.querySelectorAll('.reason:not([hidden])')].map(bar => bar.dataset.relation);
  seen.low = set({score: '0 1'});
  seen.high = set({score: '1 -1'});
  seen.words = set({words: ' UNIQUE  needle'});
  seen.none = set({words: 'nowhere to be found'});
  seen.said = form.querySelector('output').value;
  seen.listed = set({});
  seen.broken = frame.broken === 1;
  document.body.innerHTML = `<pre>${JSON.stringify(seen)}</pre>`;
});
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium to open the page with")
@pytest.mark.parametrize("width", [1280, 390, 320])
def test_a_browser_shows_filters_and_sorts_it(tmp_path: Path, toys: tuple[Schema, list[Table]], width: int) -> None:
    schema, rows = toys
    long = "x" * 300 + " " + "word " * 200 + "<script>window.broken = 1</script>"
    long_name = "duplicate_of_a_long_name"
    scores = [(0.9, 0.1), (0.6, 0.7), (0.95, 0.8), (0.3, 0.2)]
    shown = [
        pair(
            with_cells(rows[i], title=long if i == 0 else "a unique old needle" if i == 2 else "lamp", colour="c" * 90),
            with_cells(rows[10 + i], title=long[::-1], colour="d e" * 90),
            scores={long_name: a, "variant": b},
            thresholds={long_name: 0.5, "variant": 0.5},
            reasons={long_name: {"title": 9.0, "photo": -9.0, "n" * 80: 1.0}, "variant": {"title": 1.0}},
            group="sure match" if i < 2 else "just below the threshold " * 5,
            clusters={"variant": 123456789},
        )
        for i, (a, b) in enumerate(scores)
    ]
    text, _ = rendered(
        tmp_path / "page.html", schema, *shown, title="Matches " + "of" * 60, facts=[("a" * 60, "b" * 90)]
    )
    outer = tmp_path / "outer.html"
    outer.write_text(PROBE.replace("WIDTH", str(width)).replace("PAGE", escape(text)), encoding="utf-8")
    done = subprocess.run(
        [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", outer.as_uri()],
        capture_output=True,
        text=True,
        timeout=500,
        check=True,
    )
    result = re.search(r"<pre>(.*)</pre>", done.stdout)
    assert result, done.stdout[-500:] + done.stderr[-500:]
    seen = json.loads(result[1])
    listed = [f"{a} {b}" for a, b in scores]
    needed, visible, inner = seen["widths"]
    assert needed <= visible <= inner == width
    assert seen["form"] and seen["all"] == seen["listed"] == listed
    assert seen["group"] == listed[2:]
    assert seen["verdict"] == listed[1:3] and set(seen["bars"]) == {"1"}
    assert seen["low"] == [listed[1], listed[0], listed[3], listed[2]]  # within each group
    assert seen["high"] == [listed[1], listed[0], listed[2], listed[3]]
    assert seen["words"] == [listed[2]] and seen["none"] == [] and seen["said"] == "0 of 4"
    assert not seen["broken"]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium to open the page with")
def test_labels_are_given_by_keys_kept_and_saved(tmp_path: Path, toys: tuple[Schema, list[Table]]) -> None:
    api = pytest.importorskip("playwright.sync_api", reason="no playwright to open the page with")
    schema, rows = toys
    odd = 'l,2 "odd"'
    rows[2] = replace(rows[2], ids=pa.array([odd]))
    scores = {"duplicate": 0.5, "variant": 0.5}
    shown = [
        pair(rows[i], rows[10 + i], scores=scores, thresholds=scores, reasons={}, clusters={}, group="doubtful")
        for i in range(5)
    ]
    given = [("l7", "r8", "variant", 0)]
    write_page(tmp_path / "page.html", schema, shown, "toys", [], given=given, key="records")
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_context(accept_downloads=True).new_page()
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text))
        page.goto((tmp_path / "page.html").as_uri())
        for key in ("1", "0", " ", "1"):  # of the first, second and, since the third is skipped, the fourth
            page.keyboard.press(key)
        said = page.locator("output.labelled").text_content()
        assert said == "3 of 5 labelled, 4 in all"
        page.reload()
        page.select_option("select[name=relation]", "1")
        assert "0 of 5 labelled" in (page.locator("output.labelled").text_content() or "")
        page.locator("article").nth(2).get_by_role("button", name="not").click()
        with page.expect_download() as download:
            page.get_by_role("button", name="save labels.csv").click()
        download.value.save_as(tmp_path / "labels.csv")
        assert download.value.suggested_filename == "labels.csv" and not complaints
        page.fill("input[name=words]", "1")  # which a search box takes for itself
        page.keyboard.press("1")
        assert "1 of 5 labelled" in (page.locator("output.labelled").text_content() or "")
        browser.close()
    with (tmp_path / "labels.csv").open(encoding="utf-8", newline="") as file:
        saved = [tuple(row.values()) for row in csv.DictReader(file)]
    assert saved == [
        ("l7", "r8", "0", "variant"),
        ("l0", "r0", "1", "duplicate"),
        ("l1", "r1", "0", "duplicate"),
        ("l3", "r3", "1", "duplicate"),
        (odd, "r2", "0", "variant"),
    ]


def test_clusters_are_listed_by_their_weakest_pair(pairs_run: tuple[Path, Path], tmp_path: Path) -> None:
    matches = match(MatchConfig(run=str(pairs_run[1]), output=str(tmp_path / "m.parquet"), k=3, explain=False))
    left, right = matches.left, matches.right
    matches.clusters = np.arange(len(matches.records.table))[None]
    pairs = [0, int(np.flatnonzero((left != left[0]) & (right != right[0]))[0])]
    for place, p in zip(pairs, (0.9, 0.6), strict=True):
        matches.clusters[0, right[place]] = left[place]
        matches.probability[place] = p
    found, ids = shown_clusters(matches), matches.records.table.ids
    assert [cluster.weakest for cluster in found] == [0.6, 0.9]
    for cluster, place in zip(found, pairs[::-1], strict=True):
        ends = [str(ids[left[place]]), str(ids[right[place]])]
        assert [(record.id, record.side) for record in cluster.members] == [*zip(ends, ("left", "right"), strict=True)]
        assert cluster.outside is None or (cluster.outside[1].id in ends and cluster.outside[0].id not in ends)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium to open the page with")
def test_clusters_are_split_and_joined_by_labels(tmp_path: Path, toys: tuple[Schema, list[Table]]) -> None:
    api = pytest.importorskip("playwright.sync_api", reason="no playwright to open the page with")

    def record(id_: str, side: str) -> ShownRecord:
        return ShownRecord(id_, side, [("title", EVIL)])

    members = [record("1", "left"), record("1", "right"), record("2", "right")]
    cluster = ShownCluster("label", 5, 3, 0.4, members, (record("7", "left"), members[2], 0.3))
    write_page(tmp_path / "page.html", toys[0], [], "toys", [], clusters=[cluster])
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_context(accept_downloads=True).new_page()
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto((tmp_path / "page.html").as_uri())
        page.locator("summary").click()
        page.locator("[data-record] input").nth(2).check()
        page.get_by_role("button", name="split off what is ticked").click()
        assert page.locator(".cluster output").text_content() == "1 pair labelled apart", (
            "the two of one table are none"
        )
        page.get_by_role("button", name="same as 2").click()
        with page.expect_download() as download:
            page.get_by_role("button", name="save labels.csv").click()
        download.value.save_as(tmp_path / "labels.csv")
        assert not complaints
        browser.close()
    assert (tmp_path / "labels.csv").read_text() == "left_id,right_id,label\n1,2,0\n7,2,1\n"
