"""``mmtab cache``: what the cache holds, and making room in it.

mmtab cache show                                  how large it is, by kind
mmtab cache show --entries                        a line for each entry
mmtab cache clean                                 what killed runs left
mmtab cache clean --older-than 30 --kind images   and what was not used for 30 days
mmtab cache clean --to 20 --dry-run               down to 20 GB; only list what would be removed
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Annotated

import typer
from rich import filesize

from mmtab.cli.output import APP, print_line, print_table
from mmtab.config.types import RunConfig
from mmtab.utils.cache import DAY, Entry, Store, least_used
from mmtab.utils.errors import ConfigError
from mmtab.utils.text import count

app = typer.Typer(no_args_is_help=True, help="What the cache holds, and making room in it.", **APP)
Cache = Annotated[Path, typer.Option("--cache", envvar="MMTAB_CACHE", help="the folder of the cache")]
CACHE = Path(RunConfig.cache)


@app.command()
def show(
    entries: Annotated[bool, typer.Option("--entries", help="a line for each")] = False, cache: Cache = CACHE
) -> None:
    """What the cache holds, how large it is and when it was last used."""
    store = _store(cache)
    everything, leftovers = store.entries(), store.leftovers()
    print_line(str(store.root))  # not a title, which would be wrapped
    if entries:
        rows = [(e.kind, _short(e.digest), *_facts([e])) for e in sorted(everything, key=lambda e: (e.kind, -e.used))]
        print_table("entries", ["kind", "entry", "size", "last used"], rows)
    else:
        _print_kinds("kinds", everything)
    if leftovers:
        print_line(f"besides {_counted(leftovers, 'leftover')} of killed runs, which clean removes")


@app.command()
def clean(
    older_than: Annotated[float | None, typer.Option(help="DAYS: what was not used for so long", min=0)] = None,
    kind: Annotated[list[str] | None, typer.Option(help="only of this kind; again for more")] = None,
    to: Annotated[
        float | None, typer.Option(help="GB: what was used least recently, until no more are left", min=0)
    ] = None,
    all: Annotated[bool, typer.Option("--all", help="everything")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be removed")] = False,
    cache: Cache = CACHE,
) -> None:
    """Remove entries, and always what killed runs left. Without any option only that. With several options, entries
    that all of them mean. What is removed is made again by the next run that wants it; downloads are fetched again."""
    if all and (older_than is not None or kind or to is not None):
        raise ConfigError("--all removes everything: leave out --older-than, --kind and --to, or leave out --all")
    store = _store(cache)
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
    removed, swept = (chosen, leftovers) if dry_run else (store.remove(chosen), store.remove(leftovers))
    if removed:
        _print_kinds("would be removed" if dry_run else "removed", removed)
    did = "would remove" if dry_run else "removed"
    print_line(f"{did} {_counted(removed, 'entry')} and {_counted(swept, 'leftover')} of killed runs from {store.root}")
    if stuck := len(chosen) + len(leftovers) - len(removed) - len(swept):
        print_line(f"{stuck} could not be removed: they belong to another user, or another process was first")
    if not asked:
        print_line(
            "entries stay without an option: --older-than DAYS, --kind KIND, --to GB or --all says which to remove"
        )


def _store(cache: Path) -> Store:
    """Raises ConfigError for a folder that holds other things."""
    store = Store(cache.expanduser())
    store.check()
    return store


def _print_kinds(title: str, entries: list[Entry]) -> None:
    """A row a kind, the largest first, and the total."""
    kinds: dict[str, list[Entry]] = {}
    for entry in entries:
        kinds.setdefault(entry.kind, []).append(entry)
    order = sorted(kinds.items(), key=lambda item: -sum(entry.n_bytes for entry in item[1]))
    rows = [(kind, str(len(members)), *_facts(members)) for kind, members in [*order, ("total", entries)]]
    print_table(title, ["kind", "entries", "size", "last used"], rows)


def _facts(entries: list[Entry]) -> tuple[str, str]:
    """Size and last use."""
    used = max((entry.used for entry in entries), default=None)
    when = "" if used is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(used))
    return filesize.decimal(sum(entry.n_bytes for entry in entries)), when


def _counted(entries: list[Entry], word: str) -> str:
    several = f"{word[:-1]}ies" if word.endswith("y") else ""
    return f"{count(len(entries), word, several)} ({filesize.decimal(sum(entry.n_bytes for entry in entries))})"


def _short(digest: str) -> str:
    """Enough of a digest to tell entries apart; a name, such as that of a generated dataset, whole."""
    return digest[:12] if re.fullmatch("[0-9a-f]{32}", digest) else digest
