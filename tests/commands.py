"""Commands as scripts/ start them, but in this process: importing all that a training needs takes seconds."""

from __future__ import annotations

import contextlib
import io
import logging
import runpy
import subprocess
import sys
from pathlib import Path
from unittest import mock

SCRIPTS = Path(__file__).parents[1] / "scripts"


def script(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The status that scripts/NAME.py ends with, and what it prints. Logging is as it was before: Hydra changes it."""
    status, output, errors, root = 0, io.StringIO(), io.StringIO(), logging.getLogger()
    command = [str(SCRIPTS / f"{name}.py"), *map(str, arguments)]
    handlers, level = list(root.handlers), root.level
    with (
        mock.patch.object(sys, "argv", command),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        try:
            runpy.run_path(command[0], run_name="__main__")
        except SystemExit as ended:
            status = int(ended.code or 0)
        finally:
            root.handlers[:] = handlers
            root.setLevel(level)
    return subprocess.CompletedProcess(command, status, output.getvalue(), errors.getvalue())
