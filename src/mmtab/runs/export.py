"""What of a run folder predicts: the smallest folder that opens as a run."""

from __future__ import annotations

from pathlib import Path

from mmtab.runs.folder import DESCRIPTION, METRICS, PROVENANCE, TASK
from mmtab.training.places import BEST

MODEL = (*DESCRIPTION, TASK, METRICS, PROVENANCE, str(BEST))


def model_files(folder: Path) -> list[str]:
    """Files of a run folder that ``load_run`` and ``predict`` read, by their paths within it."""
    paths = (path for pattern in MODEL for path in sorted(folder.glob(pattern)) if path.is_file())
    return [path.relative_to(folder).as_posix() for path in paths]
