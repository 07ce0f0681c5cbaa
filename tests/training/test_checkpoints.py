"""What a killed process left in a run folder goes when the run goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning_utilities.core.rank_zero import rank_zero_only

from mmtab.training.checkpoints import find_last


@pytest.mark.parametrize(("rank", "is_left"), [(0, False), (1, True)])
def test_only_the_first_process_removes_what_is_half_written(
    rank: int, is_left: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another may get here while the first one still writes."""
    monkeypatch.setattr(rank_zero_only, "rank", rank)
    half = tmp_path / ".writing-manifest.json-1"
    half.write_text("{")
    assert find_last(tmp_path, "") is None
    assert half.exists() == is_left
