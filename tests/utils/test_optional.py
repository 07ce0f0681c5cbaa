"""Optional libraries: imported when asked for, and named with their extra where they are missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from mmtab.utils.errors import ConfigError
from mmtab.utils.optional import require


def test_an_installed_library_is_returned() -> None:
    assert require("json", extra="x") is json


def test_a_missing_library_is_named_with_its_extra() -> None:
    with pytest.raises(ConfigError, match=r'this needs no_such_library. Fix: pip install "mmtab\[sweep\]"'):
        require("no_such_library.figure", extra="sweep")


def test_an_installed_library_that_lacks_another_one_says_so_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_installed.py").write_text("import no_such_library")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        require("half_installed", extra="sweep")
