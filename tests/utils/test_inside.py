"""Folders that runs are written into stay below the folder that the user named."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmtab.utils.errors import RunError
from mmtab.utils.paths import check_inside


def test_what_lies_outside_is_not_written(tmp_path: Path) -> None:
    (root := tmp_path / "sweep").mkdir()
    (root / "link").symlink_to(tmp_path / "elsewhere")
    check_inside(root, root / "trial-1" / "toys-seed0")
    (tmp_path / "alias").symlink_to(root)
    check_inside(tmp_path / "alias", tmp_path / "alias" / "trial-1")
    for path in (root / "link" / "toys-seed0", root / ".." / "escaped", tmp_path / "sweeping"):
        with pytest.raises(RunError, match="which is outside"):
            check_inside(root, path)
