"""Libraries that only some commands need: they come with an extra of the package."""

from __future__ import annotations

import importlib
from typing import Any

from mmtab.utils.errors import ConfigError


def require(module: str, *, extra: str) -> Any:
    """Import a module; raises ConfigError that names the extra to install where its library is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise  # the library is there and lacks something itself
        library = module.split(".")[0]
        raise ConfigError(f'this needs {library}. Fix: pip install "mmtab[{extra}]"') from error
