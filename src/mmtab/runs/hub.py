"""Exported runs on the hub of Hugging Face. What comes from there is a stranger's: data alone (see SECURITY.md)."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmtab.runs.export import CARD, MODEL
from mmtab.runs.manifest import MANIFEST
from mmtab.utils.errors import RunError, first_line
from mmtab.utils.online import hub_or_cache

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_name(name: str) -> bool:
    """Whether it is OWNER/NAME and no folder."""
    return bool(NAME.fullmatch(name)) and not Path(name).exists()


def download(name: str, revision: str | None = None) -> Path:
    """The folder of an export, in the cache of huggingface_hub; files that it has are not fetched again."""
    import huggingface_hub
    from huggingface_hub.constants import HF_HOME

    # A folder of files: the hub's own cache holds links, by which a run might lead out of its folder
    folder = Path(HF_HOME) / "mmtab" / name.replace("/", "--") / (revision or "main").replace("/", "--")
    wanted: dict[str, Any] = {"allow_patterns": [*MODEL, MANIFEST, CARD], "local_dir": folder, "endpoint": _endpoint()}
    with _reaching(f"{name} is no folder, and could not be read from the hub"), hub_or_cache():
        huggingface_hub.snapshot_download(name, revision=revision, **wanted)
    return folder


def upload(name: str, folder: Path, private: bool, token: str | None) -> str:
    """Upload an export; returns its address."""
    import huggingface_hub

    if not NAME.fullmatch(name):
        raise RunError(f"{name!r}: expected OWNER/NAME")
    with _reaching(f"{name} could not be uploaded"):
        api = huggingface_hub.HfApi(endpoint=_endpoint(), token=token)
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="A run of mmtab")
    return str(address)


def _endpoint() -> str | None:
    """Another hub than the public one."""
    return os.environ.get("HF_ENDPOINT") or None


@contextlib.contextmanager
def _reaching(problem: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever a network may raise
        reason = first_line(error)
        raise RunError(f"{problem} ({reason})") from error
