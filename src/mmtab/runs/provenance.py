"""Where numbers come from: code, versions, hardware."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

REPORT = Path("report") / "report.html"  # in the folder of the run
PACKAGES = (
    "mmtab",
    "torch",
    "pytorch-lightning",
    "transformers",
    "timm",
    "pyarrow",
    "numpy",
    "scikit-learn",
    "rapidfuzz",
)


def is_finished(folder: Path) -> bool:
    """Whether a folder holds a whole run: its provenance.json is the last that is written."""
    return (folder / "provenance.json").exists()


def has_report(folder: Path) -> bool:
    """Whether a run has its page, the last that is written of a report."""
    return (folder / REPORT).exists()


def facts() -> dict[str, Any]:
    """Time, git commit (and whether files differed from it), package versions, machine."""
    import os

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "unknown"
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "versions": versions,
        "hardware": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "gpus": _gpus(),
        },
    }


def peak_memory_mib() -> int:
    """The most memory that this process has held, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (1 << 20) if sys.platform == "darwin" else peak // 1024


def _git(*arguments: str) -> str | None:
    here = Path(__file__).parent
    try:
        return subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _gpus() -> list[str]:
    """Asked of torch where the process has it anyway, which takes seconds to import."""
    if "torch" in sys.modules:
        cuda = sys.modules["torch"].cuda
        return [cuda.get_device_name(i) for i in range(cuda.device_count())]
    try:
        said = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return said.stdout.splitlines()


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
