"""The scoreboard: its figures in three forms, safe from what names hold, and usable in a browser, on a phone too."""

from __future__ import annotations

import csv
import io
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import Seen
from sklearn.metrics import f1_score

from mmtab.benchmark import scoreboard
from mmtab.benchmark.statistics import standings
from mmtab.benchmark.types import Board, Entry, Failure, RankedDataset, Score

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
EVIL = "<script>window.broken = 1</script> \"'&<img src=x onerror=alert(2)> | `x` $y$ ]]>\x00"
KWAY = {"airbnb": 0.65, "fashion": 0.92, "hearthstone": 0.52, "music": 0.53, "openmoji": 0.86}
MATCHING = {
    "abt_buy": 0.91,
    "amazon_google": 0.69,
    "dblp_acm": 0.985,
    "hm_exact": 0.79,
    "hm_variants": 0.66,
    "itunes_amazon": 0.9,
    "walmart_amazon": 0.86,
    "wdc_products": 0.69,
}
LEVEL = KWAY | MATCHING


def example(
    systems: list[tuple[str, str, str, float, int]], n: int = 400, without: dict[str, list[str]] | None = None
) -> Board:
    """``systems``: name, title, kind, how much better than usual, number of seeds. ``without``: datasets by system."""
    rng = np.random.default_rng(0)
    label = {d: rng.integers(0, 5, (n, 1)) if d in KWAY else (rng.random((n, 1)) < 0.2).astype(int) for d in LEVEL}
    facts = {"licence": "CC BY 4.0", "rows": f"{n:,}"}
    datasets = {
        d: RankedDataset(
            d,
            d.replace("_", " ").title(),
            "kway" if d in KWAY else "matching",
            "accuracy" if d in KWAY else "f1",
            label[d],
            facts,
            {"Ditto": 0.99} if d == "abt_buy" else {},
        )
        for d in LEVEL
    }
    entries = []
    for name, title, kind, skill, seeds in systems:
        scores = []
        for d in LEVEL:
            if d in (without or {}).get(name, []):
                continue
            for seed in range(seeds):
                y, right = label[d], min(LEVEL[d] + skill, 0.995)
                other = rng.integers(0, 5, y.shape) if d in KWAY else (rng.random(y.shape) < 0.2).astype(int)
                said = np.where(rng.random(y.shape) < right, y, other)
                value = (said == y).mean() if d in KWAY else f1_score(y, said)
                scores.append(
                    Score(d, seed, float(value), 10 * (2 + skill) ** 5 + seed, 900.0, 2048.0, 1_500_000, said)
                )
        entries.append(Entry(name, title, kind, f"about {title}", scores))
    return Board(
        "Toys", {"k-way": list(KWAY), "matching": list(MATCHING)}, datasets, entries, facts={"machine": "2 cores"}
    )


SYSTEMS = [
    ("mmtab", "mmtab", "mmtab", 0.04, 2),
    ("small", "mmtab, small", "mmtab", -0.05, 1),
    ("tfidf", "tf-idf", "control", -0.1, 1),
    ("majority", "majority class", "control", -0.5, 1),
    ("autogluon", "AutoGluon", "rival", 0.0, 1),
    ("ditto", "Ditto", "rival", 0.06, 3),
]


@pytest.fixture(scope="module")
def board() -> Board:
    found = example(SYSTEMS, without={"ditto": list(KWAY)})
    return replace(found, failures=[Failure("ditto", "airbnb", 0, "OutOfMemoryError: no 12 GiB")])


@pytest.fixture(scope="module")
def teams() -> Board:
    return example(
        [
            (f"team{i}", f"Team {i} of a rather long name" if i else EVIL, "team", 0.04 - i / 400, 1 + i % 2)
            for i in range(50)
        ]
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, board: Board, teams: Board) -> Path:
    """The folder with both boards."""
    folder = tmp_path_factory.mktemp("boards")
    scoreboard.write_scoreboard(board, folder / "systems")
    scoreboard.write_scoreboard(teams, folder / "teams")
    return folder


@pytest.mark.parametrize("name", ["systems", "teams"])
def test_a_page_stands_alone_and_stays_small(written: Path, name: str) -> None:
    text = (written / name / "scoreboard.html").read_text(encoding="utf-8")
    seen = Seen(text)
    assert len(text.encode()) < 1_500_000
    assert not re.search(r"https?:|file:|//[a-z]|@import|url\((?!#)", text)
    assert not {"link", "iframe", "object", "embed", "base", "img", "metadata"} & {tag for tag, _ in seen.tags}
    assert [meta for meta in seen.having("meta") if "default-src 'none'" in (meta.get("content") or "")]
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids)) and set(re.findall(r'(?:href="|url\()#([^")]*)', text)) <= set(ids)
    assert len(seen.having("section")) == 3 and len(seen.having("dialog")) == 13 and len(seen.having("svg")) == 6
    assert sorted(p.name for p in (written / name).iterdir()) == ["scoreboard.csv", "scoreboard.html", "scoreboard.md"]


def test_tags_of_the_page_close(written: Path) -> None:
    text = re.sub(
        r"<script>.*</script>", "", (written / "teams" / "scoreboard.html").read_text(encoding="utf-8"), flags=re.S
    )
    void, stack = {"meta", "input", "wbr", "br", "img"}, []
    for closing, tag, empty in re.findall(r"<(/?)([a-zA-Z0-9]+)[^>]*?(/?)>", text):
        if closing:
            assert stack and stack.pop() == tag
        elif not empty and tag not in void:
            stack.append(tag)
    assert not stack


def test_nothing_from_names_breaks_the_page(written: Path, board: Board) -> None:
    text = (written / "teams" / "scoreboard.html").read_text(encoding="utf-8")
    seen = Seen(text)
    assert len(seen.having("script")) == 1 and seen.text.count("<script>window.broken") >= 10 and "\x00" not in text
    assert not any(name.startswith("on") for _, attributes in seen.tags for name in attributes)
    evil = RankedDataset(EVIL, EVIL, EVIL, EVIL, None, {EVIL: EVIL}, {EVIL: 0.5})
    entries = [Entry(EVIL + e, EVIL, EVIL, EVIL, [Score(EVIL, 0, v, 1.0)]) for e, v in (("1", 0.2), ("2", 0.4))]
    whole = Board(EVIL, {EVIL: [EVIL]}, {EVIL: evil}, entries, [Failure(EVIL, EVIL, 0, EVIL)], {EVIL: EVIL})
    seen = Seen(scoreboard.page(whole, standings(whole)))
    assert len(seen.having("script")) == 1 and not seen.having("img")
    assert not any(name.startswith("on") for _, attributes in seen.tags for name in attributes)
    said = scoreboard.markdown(whole)
    assert not re.search(r"(?<!\\)[<`$]", said)
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 9 for line in said.splitlines() if line.startswith("|"))


def test_the_page_says_what_the_figures_say(written: Path, board: Board) -> None:
    text = (written / "systems" / "scoreboard.html").read_text(encoding="utf-8")
    shown = unescape(re.sub(r"<[^>]*>", " ", text))
    best = standings(board)[0]
    assert f"{best.average[0]:.3f}" in shown and "2 cores" in shown and "OutOfMemoryError" in shown
    assert "8 of 13 datasets" in shown and "Figures for reference" in shown and "for reference" in shown
    kway, matching = standings(board)[1:]
    assert "can never reach .05 with 5 datasets: the smallest two-sided p is .0625" in shown
    assert kway.n_ranked == 5 and matching.n_ranked == 6
    assert "<small>±" in text and all(
        re.search(f'<td[^>]* class="?{kind}"?[ >]', text) for kind in ("best", "tied", "up", "noise")
    )


def test_the_same_board_makes_the_same_bytes(written: Path, board: Board, tmp_path: Path) -> None:
    scoreboard.write_scoreboard(board, tmp_path)
    for path in (written / "systems").iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


def test_markdown_has_a_table_a_track_and_says_who_wins(written: Path, board: Board) -> None:
    text = (written / "systems" / "scoreboard.md").read_text(encoding="utf-8")
    assert text.startswith("# Toys\n") and [x for x in re.findall(r"^\*\*(.*)\*\*$", text, re.M)] == [
        "all",
        "k-way",
        "matching",
    ]
    tables = re.findall(r"(?:^\|.*\n)+", text, re.M)
    assert len(tables) == 3
    for table, standing in zip(tables, standings(board), strict=True):
        lines = table.strip().splitlines()
        names = [] if standing.name == "all" else standing.datasets  # they stand in the tables of the tracks
        assert {line.count("|") for line in lines} == {8 + len(names)}
        top = lines[2].split(" | ")
        assert (
            top[0] == "| 1"
            and top[1] == standing.entries[0].title
            and top[2].startswith(f"{standing.average[0]:.3f} (")
        )
        assert " | ".join(["predicted rows/s", *names]) in lines[0]
    matching = standings(board)[2]
    names = [entry.name for entry in matching.entries]
    own, ditto = names.index("mmtab"), names.index("ditto")
    for j, dataset in enumerate(matching.datasets):
        beaten = matching.scores[ditto, j] > matching.scores[own, j]
        assert (f"on {dataset} **Ditto** {matching.scores[ditto, j]:.3f}" in text.split("**matching**")[1]) == beaten
    assert "A rival beats **mmtab**, the best mmtab entry, on" in text and "*Ditto, for reference*" in text
    assert "- ditto on airbnb, seed 0: OutOfMemoryError: no 12 GiB" in text


def test_csv_has_a_line_an_entry_and_dataset(written: Path, board: Board) -> None:
    lines = list(csv.DictReader(io.StringIO((written / "systems" / "scoreboard.csv").read_text(encoding="utf-8"))))
    assert len(lines) == 5 * 13 + 8
    entry = board.entries[0]
    line = next(line for line in lines if line["entry"] == "mmtab" and line["dataset"] == "abt_buy")
    values = [score.value for score in entry.of("abt_buy")]
    assert float(line["mean"]) == pytest.approx(np.mean(values), abs=1e-6)
    assert float(line["std"]) == pytest.approx(np.std(values, ddof=1), abs=1e-6)
    assert float(line["low"]) < float(line["mean"]) < float(line["high"])
    assert (line["n_seeds"], line["predict_rows_per_second"], line["peak_memory_mib"], line["n_parameters"]) == (
        "2",
        "900",
        "2048",
        "1.5e+06",
    )
    for dataset in LEVEL:
        there = [line for line in lines if line["dataset"] == dataset]
        better = [1 + sum(float(o["mean"]) > float(x["mean"]) for o in there) for x in there]
        assert [int(x["rank"]) for x in there] == better
    formula = Board(
        "x",
        {"t": ["a"]},
        {"a": RankedDataset("a", "a", "kway", "accuracy")},
        [Entry("=1+1", "@x", "team", "", [Score("a", 0, 0.5)])],
    )
    assert "'=1+1,'@x,team" in scoreboard.table(formula, standings(formula))


def test_boards_of_next_to_nothing_make_pages_too(tmp_path: Path) -> None:
    dataset = RankedDataset("a", "A", "matching", "pr_auc", np.zeros((3, 1), np.int64))
    for entries in (
        [],
        [Entry("x", "x", "team", "", [Score("a", 0, 0.5)])],
        [Entry(n, n, "rival", "", [Score("a", 0, 0.5, 0.0)]) for n in "xy"],
    ):
        scoreboard.write_scoreboard(Board("Few", {"t": ["a"]}, {"a": dataset}, entries), tmp_path)
        text = (tmp_path / "scoreboard.html").read_text(encoding="utf-8")
        assert "</body></html>" in text and "nan" not in re.sub(
            r"<script>.*", "", text[text.index("<body>") :], flags=re.S
        )
        assert "nan" not in (tmp_path / "scoreboard.md").read_text(encoding="utf-8")
    assert "the metric takes probabilities" in text
    scoreboard.write_scoreboard(Board("None", {}, {}, []), tmp_path)
    assert "no scores" in (tmp_path / "scoreboard.html").read_text(encoding="utf-8")


def test_a_failure_while_writing_leaves_what_was_there(
    written: Path, board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(written / "systems", tmp_path / "here")

    def full(self: Path, text: str, encoding: str) -> int:
        self.write_bytes(text[:100].encode())
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space"):
        scoreboard.write_scoreboard(board, tmp_path / "here")
    for path in (tmp_path / "here").iterdir():
        assert path.read_bytes() == (written / "systems" / path.name).read_bytes()


# --- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="no playwright to open the page with")
    if CHROMIUM is None:
        pytest.skip("no chromium to open the page with")
    with api.sync_playwright() as play:
        found = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(params=[(1280, 800), (390, 844)], ids=["desk", "phone"])
def opened(request: pytest.FixtureRequest, browser: Any) -> Iterator[Any]:
    """A function that opens a file, at two sizes; no page may complain, nor be wider than its window."""
    width, height = request.param
    context = browser.new_context(viewport={"width": width, "height": height})
    context.set_offline(True)
    context.set_default_timeout(5000)
    pages, complaints = [], []

    def open_(path: Path) -> Any:
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda asked: asked.url == path.as_uri() or complaints.append(asked.url))
        start = time.monotonic()
        page.goto(path.as_uri(), wait_until="load")
        assert time.monotonic() - start < 3
        pages.append(page)
        return page

    yield open_
    for page in pages:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert not complaints
    context.close()


SHOWN = "section:not([hidden]) "


def names(page: Any, table: str) -> list[str]:
    found: list[str] = page.eval_on_selector_all(
        f"{SHOWN}table.{table} tbody tr[data-kind]:not([hidden])", "rows => rows.map(row => row.dataset.name)"
    )
    return found


def test_columns_sort_up_and_down(opened: Any, written: Path) -> None:
    page = opened(written / "systems" / "scoreboard.html")
    before = names(page, "ranking")
    head = page.locator(f"{SHOWN}.ranking th", has_text="training, min")
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending" and names(page, "ranking") != before
    times = page.eval_on_selector_all(
        f"{SHOWN}.ranking tbody tr", "rows => rows.map(row => Number(row.cells[8].dataset.v))"
    )
    assert times == sorted(times) and len(set(times)) == 5
    head.locator("button").press("Enter")  # as a keyboard does
    assert head.get_attribute("aria-sort") == "descending"
    assert names(page, "ranking")[0] == "mmtab mmtab"  # who took longest
    average = page.locator(f"{SHOWN}.ranking th", has=page.get_by_role("button", name="average", exact=True))
    average.locator("button").click()
    assert average.get_attribute("aria-sort") == "descending" and head.get_attribute("aria-sort") is None
    assert names(page, "ranking") == before
    page.locator(f"{SHOWN}.scores th", has_text="airbnb").locator("button.sort").click()
    assert names(page, "scores")[-1] == "ditto ditto"  # which has no score there comes last, …
    page.locator(f"{SHOWN}.scores th", has_text="airbnb").locator("button.sort").click()
    assert names(page, "scores")[-1] == "ditto ditto"  # … either way


def test_a_text_and_boxes_hide_entries(opened: Any, written: Path) -> None:
    page = opened(written / "systems" / "scoreboard.html")
    page.locator("input[type=search]").fill("  MMTAB small")
    assert names(page, "ranking") == names(page, "scores") == names(page, "pairs") == ["small mmtab, small"]
    assert page.locator("output").inner_text() == "1 of 6 entries"
    assert page.locator(f"{SHOWN}table.pairs tbody td:visible").count() == 1  # the columns of the hidden ones too
    page.locator("input[type=search]").fill("")
    page.get_by_label("control").uncheck()
    assert sorted(names(page, "ranking")) == ["autogluon autogluon", "mmtab mmtab", "small mmtab, small"]
    page.get_by_label("control").check()
    assert len(names(page, "ranking")) == 5


def test_tracks_and_cards_open(opened: Any, written: Path) -> None:
    page = opened(written / "systems" / "scoreboard.html")
    assert page.locator("section:visible").count() == 1
    page.get_by_role("button", name="matching").click()
    assert page.locator("section:visible").count() == 1 and len(names(page, "ranking")) == 6
    page.locator(f"{SHOWN}button.open", has_text="abt").click()
    card = page.locator("dialog[open]")
    assert card.count() == 1 and {"Abt Buy", "CC BY 4.0", "f1", "for reference"} <= {
        x for x in ("Abt Buy", "CC BY 4.0", "f1", "for reference") if x in card.inner_text()
    }
    assert card.locator("tr").count() == 7 and card.evaluate("e => e.scrollWidth <= e.clientWidth")
    box = card.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= page.viewport_size["width"]
    card.get_by_role("button", name="close").click()
    assert page.locator("dialog[open]").count() == 0
    page.locator(f"{SHOWN}button.open").first.click()
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0


def test_tables_scroll_by_themselves_and_charts_fit(opened: Any, written: Path) -> None:
    page = opened(written / "teams" / "scoreboard.html")
    width = page.viewport_size["width"]
    assert len(names(page, "ranking")) == 50 and len(names(page, "pairs")) == 20
    assert page.evaluate("window.broken") is None
    for box in page.eval_on_selector_all(
        f"{SHOWN}.scroll, {SHOWN}svg", "all => all.map(e => e.getBoundingClientRect().toJSON())"
    ):
        assert box["left"] >= 0 and box["right"] <= width + 1 and box["height"] > 0
    # no text of a chart lies outside it
    spill = page.eval_on_selector_all(
        f"{SHOWN}svg text",
        """all => all.filter(text => {
        const a = text.getBoundingClientRect(), b = text.closest('svg').getBoundingClientRect();
        return a.left < b.left - 2 || a.right > b.right + 2 || a.top < b.top - 2 || a.bottom > b.bottom + 2;
    }).map(text => text.textContent)""",
    )
    assert spill == []
