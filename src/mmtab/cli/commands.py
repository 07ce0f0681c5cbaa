"""The commands of scripts/prepare_data.py, cache.py and submit.py: each calls functions of the library and prints what they gave."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import yaml
from rich import filesize
from rich.console import Console
from rich.table import Table

from mmtab.config.types import CONFIGS, RunConfig
from mmtab.data import files
from mmtab.utils.cache import DAY, Entry, Store, least_used
from mmtab.utils.errors import ConfigError
from mmtab.utils.exits import friendly

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="From raw tables to a described, checked dataset folder, step by step.",
    pretty_exceptions_enable=False,
)
Folder = Annotated[Path, typer.Argument(help="a dataset folder", show_default=False)]
Output = Annotated[Path, typer.Option("--output", "-o", help="the new folder to write", show_default=False)]
Inputs = Annotated[list[Path], typer.Argument(help="a table, several, or a folder of tables", show_default=False)]
Encoding = Annotated[str, typer.Option(help="of a csv, such as cp1252")]
Types = Annotated[list[str] | None, typer.Option("--type", help="COLUMN=TYPE, to overrule a guess; again for more")]
Method = Literal["auto", "random", "stratified", "grouped", "time", "component"]
Fractions = Annotated[tuple[float, float, float], typer.Option(help="of train, valid and test")]


cache_app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
Cache = Annotated[Path, typer.Option("--cache", envvar="MMTAB_CACHE", help="the folder of the cache")]
CACHE = Path(RunConfig.cache)


def run(program: typer.Typer = app) -> None:
    """The command line, with mistakes of the user as one line."""
    with friendly():
        program(standalone_mode=True)


@app.command()
def infer(
    inputs: Inputs, output: Output, name: str | None = None, task: str | None = None, id: str | None = None,
    label: str | None = None, types: Types = None, encoding: Encoding = "utf-8", delimiter: str = ",",
) -> None:  # fmt: skip
    """Propose dataset.yaml from raw tables and write both to a new folder; edit the yaml where it errs."""
    from mmtab.data.csv_files import Dialect
    from mmtab.prepare.propose import propose

    proposal = propose(
        inputs, output, name=name, task=task, id=id, label=label, types=_pairs(types),
        dialect=Dialect(encoding, delimiter),
    )  # fmt: skip
    rows = [(g.name, g.role, f"{g.confidence:.0%}", g.alternatives or "", g.why) for g in proposal.guesses]
    _print(f"{proposal.schema.name}: {proposal.schema.task}", ["column", "taken as", "sure", "or", "why"], rows)
    for note in proposal.notes:
        _say(f"note: {note}")
    _say(f"written: {output / 'dataset.yaml'}; edit it where a guess is wrong")


@app.command()
def split(
    folder: Folder,
    method: Method = "auto",
    by: str | None = None,
    fractions: Fractions = (0.7, 0.1, 0.2),
    seed: int = 0,
) -> None:
    """Divide rows (or pairs) into train, valid and test."""
    from mmtab.data.splits import SPLITS
    from mmtab.prepare import split

    schema = split.split(folder, method=method, by=by, fractions=fractions, seed=seed)
    stems = [stem if schema.label else f"pairs_{stem}" for stem in SPLITS]
    counts = [(stem, str(files.count(files.find(folder, schema.name, stem), schema.name))) for stem in stems]
    _print(f"{schema.name}: {schema.split}", ["table", "rows"], counts)


@app.command()
def convert(
    folder: Folder, output: Output, to: Literal["parquet", "csv"] = "parquet",
    images: Annotated[Literal["keep", "embed", "files"], typer.Option(help="pictures in cells, or in files")] = "keep",
) -> None:  # fmt: skip
    """Write the dataset in another form, with the same values."""
    from mmtab.prepare.convert import convert

    convert(folder, output, to, images)
    _say(f"written: {output}")


@app.command()
def check(folder: Folder, strict: Annotated[bool, typer.Option(help="severe alarms fail too")] = False) -> None:
    """Everything of the standard, and whether the benchmark would be honest. Exit status 1 where the standard is broken."""
    from mmtab.prepare.check import check

    _verdict(folder, check(folder), strict)


@app.command()
def describe(folder: Folder, output: Annotated[Path | None, typer.Option(help="where to write; the folder itself")] = None) -> None:  # fmt: skip
    """Write a dataset card, card.md and card.html, with the alarms of check."""
    from mmtab.prepare.check import check

    _write_card(folder, output or folder, check(folder))


@app.command(name="all")
def everything(
    inputs: Inputs, output: Output, name: str | None = None, task: str | None = None, id: str | None = None,
    label: str | None = None, types: Types = None, encoding: Encoding = "utf-8", delimiter: str = ",",
    method: Method = "auto", by: str | None = None, fractions: Fractions = (0.7, 0.1, 0.2), seed: int = 0,
) -> None:  # fmt: skip
    """infer, split where the tables are not divided yet, describe and check, in one go."""
    infer(inputs, output, name, task, id, label, types, encoding, delimiter)
    if files.exists(output, "rows") or files.exists(output, "pairs"):
        split(output, method, by, fractions, seed)
    from mmtab.prepare.check import check

    alarms = check(output)
    _write_card(output, output, alarms)
    _verdict(output, alarms)


@app.command(name="import")
def import_(
    name: Annotated[str | None, typer.Argument(help="a recipe of configs/import; none lists them")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="the new folder")] = None,
    source: Annotated[Path | None, typer.Option(help="a folder or archive that you have already")] = None,
    seed: int = 0,
) -> None:  # fmt: skip
    """Bring a public benchmark into the standard, from its address or from files that you have."""
    from mmtab.prepare.importers import import_dataset, recipes

    if name is None:
        rows = [(r.name, str(r.task), r.title, r.licence) for r in recipes().values()]
        return _print("recipes", ["name", "task", "title", "licence"], rows)
    if output is None:
        raise ConfigError("importing needs a folder to write: --output FOLDER")
    _say(f"written: {import_dataset(name, output, source=source, seed=seed)}")


# --- scripts/cache.py ------------------------------------------------------------------------------------------------


@cache_app.command()
def show(entries: Annotated[bool, typer.Option("--entries", help="a line for each")] = False, cache: Cache = CACHE) -> None:  # fmt: skip
    """What the cache holds, how large it is and when it was last used."""
    store = Store(cache.expanduser())
    found, leftovers = store.entries(), store.leftovers()
    _say(str(store.root))  # not a title, which would be wrapped
    if entries:
        rows = [(e.kind, _short(e.digest), *_facts([e])) for e in sorted(found, key=lambda e: (e.kind, -e.used))]
        _print("entries", ["kind", "entry", "size", "last used"], rows)
    else:
        _print("kinds", ["kind", "entries", "size", "last used"], _by_kind(found))
    if leftovers:
        _say(f"besides {_counted(leftovers, 'leftover')} of killed runs, which clean removes")


@cache_app.command()
def clean(
    older_than: Annotated[float | None, typer.Option(help="DAYS: what was not used for so long", min=0)] = None,
    kind: Annotated[list[str] | None, typer.Option(help="only of this kind; again for more")] = None,
    to: Annotated[float | None, typer.Option(help="GB: what was used least recently, until no more are left", min=0)] = None,
    all: Annotated[bool, typer.Option("--all", help="everything")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be removed")] = False,
    cache: Cache = CACHE,
) -> None:  # fmt: skip
    """Remove entries, and always what killed runs left. Without any option only that. With several options, entries
    that all of them mean. What is removed is made again by the next run that wants it; downloads are fetched again."""
    if all and (older_than is not None or kind or to is not None):
        raise ConfigError("--all removes everything: leave out --older-than, --kind and --to, or leave out --all")
    store = Store(cache.expanduser())
    entries, leftovers = store.entries(), store.leftovers()
    kinds = {entry.kind for entry in entries}
    if unknown := sorted(set(kind or ()) - kinds):
        raise ConfigError(f"--kind {unknown[0]}: {store.root} has {', '.join(sorted(kinds)) or 'no entries'}")
    asked = all or older_than is not None or bool(kind) or to is not None
    chosen = [entry for entry in entries if asked and (not kind or entry.kind in kind)]
    surplus = sum(entry.n_bytes for entry in chosen) - (to or 0) * 1e9
    if older_than is not None:
        chosen = [entry for entry in chosen if entry.used <= time.time() - older_than * DAY]
    if to is not None:
        chosen = least_used(chosen, int(surplus))
    gone, swept = (chosen, leftovers) if dry_run else (store.remove(chosen), store.remove(leftovers))
    if gone:
        _print("would be removed" if dry_run else "removed", ["kind", "entries", "size", "last used"], _by_kind(gone))
    did = "would remove" if dry_run else "removed"
    _say(f"{did} {_counted(gone, 'entry')} and {_counted(swept, 'leftover')} of killed runs from {store.root}")
    if stuck := len(chosen) + len(leftovers) - len(gone) - len(swept):
        _say(f"{stuck} could not be removed: they belong to another user, or another process was first")
    if not asked:
        _say("entries stay without an option: --older-than DAYS, --kind KIND, --to GB or --all says which to remove")


def _by_kind(entries: list[Entry]) -> list[tuple[str, ...]]:
    """A row a kind, the largest first, and the total."""
    kinds: dict[str, list[Entry]] = {}
    for entry in entries:
        kinds.setdefault(entry.kind, []).append(entry)
    order = sorted(kinds.items(), key=lambda item: -sum(entry.n_bytes for entry in item[1]))
    return [(name, str(len(some)), *_facts(some)) for name, some in [*order, ("total", entries)]]


def _facts(entries: list[Entry]) -> tuple[str, str]:
    """Size and last use."""
    used = max((entry.used for entry in entries), default=None)
    when = "" if used is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(used))
    return filesize.decimal(sum(entry.n_bytes for entry in entries)), when


def _counted(entries: list[Entry], word: str) -> str:
    many = word if len(entries) == 1 else f"{word[:-1]}ies" if word.endswith("y") else f"{word}s"
    return f"{len(entries)} {many} ({filesize.decimal(sum(entry.n_bytes for entry in entries))})"


def _short(digest: str) -> str:
    """Enough of a digest to tell entries apart; a name, such as that of a generated dataset, whole."""
    return digest[:12] if re.fullmatch("[0-9a-f]{32}", digest) else digest


# --- what they share -------------------------------------------------------------------------------------------------


def _pairs(types: list[str] | None) -> dict[str, str]:
    for entry in types or []:
        if "=" not in entry:
            raise ConfigError(f"--type {entry}: expected COLUMN=TYPE")
    return dict(entry.rsplit("=", 1) for entry in types or [])  # type: ignore[misc]


def _write_card(folder: Path, output: Path, alarms: list[Any]) -> None:
    from mmtab.reports.card import describe, write_card

    for path in write_card(describe(folder, alarms=alarms), output):
        _say(f"written: {path}")


def _verdict(folder: Path, alarms: list[Any], strict: bool = False) -> None:
    """Print the alarms and end with the exit status they deserve."""
    rows = [(str(alarm.severity), alarm.message, "\n".join(alarm.rows[:3])) for alarm in alarms]
    if rows:
        _print(f"{folder.name}: {len(rows)} alarms", ["severity", "what", "rows"], rows)
    else:
        _say(f"{folder}: nothing to say against it")
    failing = {"error", "severe"} if strict else {"error"}
    sys.exit(1 if any(alarm.severity in failing for alarm in alarms) else 0)


def _print(title: str, head: list[str], rows: Sequence[tuple[str, ...]]) -> None:
    table = Table(*head, title=title)
    for row in rows:
        table.add_row(*(_plain(cell) for cell in row))
    Console(width=None if sys.stdout.isatty() else 160, markup=False).print(table)


def _say(text: str) -> None:
    Console(soft_wrap=True, markup=False, highlight=False).print(text)


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(text)


# --- scripts/submit.py -----------------------------------------------------------------------------------------------

submit_app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
ChallengeFolder = Annotated[Path, typer.Argument(help="the folder of a challenge", show_default=False)]
Team = Annotated[str, typer.Argument(help="its name", show_default=False)]


@submit_app.command(name="open")
def open_(
    folder: Annotated[Path, typer.Argument(help="the new folder", show_default=False)],
    dataset: Annotated[list[str] | None, typer.Option(help="a name or a folder; again for more")] = None,
    track: Annotated[list[str] | None, typer.Option(help="datasets and tracks of configs/track/NAME.yaml; again for more")] = None,
    title: Annotated[str, typer.Option(help="of the scoreboard; the folder's name")] = "",
    public_share: Annotated[float, typer.Option(help="of the test rows, whose score is shown while it runs")] = 0.5,
    per_day: Annotated[int, typer.Option(help="submissions of a team for a dataset in a day (UTC)")] = 5,
    seed: Annotated[int | None, typer.Option(help="of the public rows; keep it secret. From the system's entropy")] = None,
    copy: Annotated[bool, typer.Option("--copy", help="the handout shares no file with the dataset; else hard links")] = False,
) -> None:  # fmt: skip
    """Open a challenge: secret labels, and the handout for participants. Without --track a track for each task."""
    from mmtab.api import load_dataset
    from mmtab.benchmark.challenge import HANDOUT, open_challenge

    folders: dict[str, Path] = {}
    tracks: dict[str, list[str]] = {}
    for name in dataset or []:
        found = load_dataset(name)
        known = found.schema.name if Path(name).name != name or Path(name).is_dir() else name
        if folders.setdefault(known, found.folder) != found.folder:
            raise ConfigError(f"--dataset {name}: another dataset is called {known} too")
        if not track:
            tracks.setdefault(str(found.schema.task), []).append(known)
    for name, members in [(name, members) for each in track or [] for name, members in _tracks(each).items()]:
        tracks[name] = members
        folders |= {member: load_dataset(member).folder for member in members if member not in folders}
    if track and (loose := set(folders) - {member for members in tracks.values() for member in members}):
        raise ConfigError(f"--dataset {min(loose)}: it is of none of the tracks {', '.join(tracks)}")
    challenge = open_challenge(
        folder, folders, tracks, title=title or folder.resolve().name, public_share=public_share, per_day=per_day, seed=seed, copy=copy,
    )  # fmt: skip
    rows = [(d, str(challenge.truth(d).schema.metric), *(f"{len(challenge.rows(d, public)):,}" for public in (True, False))) for d in challenge.datasets]  # fmt: skip
    _print(challenge.title, ["dataset", "metric", "public rows", "private rows"], rows)
    _say(f"written: {folder}; send {folder / HANDOUT} to participants, keep all else")


@submit_app.command(name="check")
def check_submission(
    folder: ChallengeFolder, dataset: str, file: Annotated[Path, typer.Argument(help="predictions, .parquet or .csv")]
) -> None:
    """Whether a predictions file would be accepted. Scores nothing and counts for nothing."""
    from mmtab.benchmark.challenge import check

    answers = check(folder, dataset, file)
    _say(f"{file}: {len(answers.prediction):,} rows of {dataset}, {'without' if answers.probability is None else 'with'} probabilities; would be accepted")  # fmt: skip


@submit_app.command()
def send(
    folder: ChallengeFolder, team: Team,
    files: Annotated[Path, typer.Argument(help="predictions, or a folder of <dataset>.parquet or .csv", show_default=False)],
    dataset: Annotated[str | None, typer.Option(help="of one file; by default its name says it")] = None,
) -> None:  # fmt: skip
    """Check, score and keep predictions: all of a folder or none. Prints a receipt with the public score."""
    from mmtab.benchmark.challenge import files_in, submit

    if files.is_dir() and dataset is not None:
        raise ConfigError("--dataset is for one file; those of a folder are called <dataset>.parquet or <dataset>.csv")
    receipts = submit(folder, team, files_in(folder, files) if files.is_dir() else {dataset or files.stem: files})
    rows = [(r.dataset, f"{r.attempt}{' (as before)' if r.again else ''}", str(r.left_today), r.metric, f"{r.public:.6f}", r.sha256[:12]) for r in receipts]  # fmt: skip
    _print(f"{receipts[0].team}, {receipts[0].time}", ["dataset", "attempt", "left today", "metric", "public score", "sha256"], rows)  # fmt: skip


@submit_app.command()
def standings(
    folder: ChallengeFolder,
    final: Annotated[bool, typer.Option("--final", help="private scores, once the challenge is over")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="where to write the scoreboard")] = None,
) -> None:
    """Who leads, by the public scores; with --final who won, by the private ones of the same submissions."""
    from mmtab.benchmark.challenge import ranked, standings

    board = standings(folder, final)
    for track, members in board.tracks.items():
        rows = []
        for place, entry, mean in ranked(board, track):
            scores = ["" if not entry.of(name) else f"{entry.of(name)[0].value:.4f}" for name in members]
            rows.append((str(place or ""), entry.title, "" if mean is None else f"{mean:.4f}", *scores, entry.about))
        _print(f"{board.title}: {track}", ["place", "team", "average", *members, ""], rows)
    _say(f"scored on {board.facts['scored on']}")
    if output is not None:
        from mmtab.benchmark.scoreboard import write_scoreboard

        write_scoreboard(board, output)
        _say(f"written: {output}")


@submit_app.command()
def history(folder: ChallengeFolder, team: Team) -> None:
    """All attempts of a team, with their public scores."""
    from mmtab.benchmark.challenge import history

    attempts = history(folder, team)
    rows = [(a.time, a.dataset, a.status, str(a.attempt or ""), "" if a.public is None else f"{a.public:.6f}", a.reason) for a in attempts]  # fmt: skip
    _print(team.strip(), ["time", "dataset", "status", "attempt", "public score", "reason"], rows)


def _tracks(name: str) -> dict[str, list[str]]:
    """The tracks of configs/track/NAME.yaml, each ``{datasets: [names]}``, or of such a file elsewhere."""
    path = next((path for path in (CONFIGS / "track" / f"{name}.yaml", Path(name)) if path.is_file()), None)
    known = sorted(path.stem for path in (CONFIGS / "track").glob("*.yaml"))
    if path is None:
        raise ConfigError(f"--track {name}: configs/track has {', '.join(known) or 'none'}; or name a yaml file")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        if "defaults" in raw:  # such as all.yaml, which is the others together
            return {track: members for each in raw["defaults"] for track, members in _tracks(each).items()}
        return {str(track): [str(member) for member in about["datasets"]] for track, about in raw.items()}
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: expected tracks such as 'kway: {{datasets: [fashion, music]}}'") from error
