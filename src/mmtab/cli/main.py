"""How scripts begin: a Hydra command line whose mistakes are one clear line. Imports nothing heavy."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig

from mmtab.config.compose import register
from mmtab.config.types import CONFIGS
from mmtab.utils.exits import friendly
from mmtab.utils.processes import follow_parent

# what a disk says that is full, or may not be written to


def _leave() -> None:
    if "torch" in sys.modules:
        from mmtab.utils import distributed as ranks

        ranks.leave()


def main(config_name: str) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Like ``hydra.main`` on configs/<config_name>.yaml, within ``friendly``."""
    import hydra
    from hydra.errors import HydraException

    def decorate(function: Callable[[DictConfig], None]) -> Callable[[], None]:
        def guarded(config: DictConfig) -> None:
            with friendly():
                function(config)
            _leave()

        register()
        follow_parent()
        return whole(hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)(guarded))

    def whole(function: Callable[[], None]) -> Callable[[], None]:
        def guarded() -> None:
            os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # else Hydra would show a traceback of what is caught here
            with friendly():
                try:
                    function()
                except HydraException as error:
                    print(error, *([error.__cause__] if error.__cause__ else []), sep="\n", file=sys.stderr, flush=True)
                    sys.exit(1)

        return guarded

    return decorate


def print_metrics(title: str, columns: dict[str, dict[str, Any]]) -> None:
    """A table with a row a metric and a column a split."""
    from rich.console import Console
    from rich.table import Table

    table = Table("metric", *columns, title=title)
    for name in {name: None for values in columns.values() for name in values}:
        found = [values.get(name) for values in columns.values()]
        cells = ["" if x is None else f"{x:,}" if isinstance(x, int) else f"{x:.4f}" for x in found]
        table.add_row(name, *cells)
    Console(width=None if sys.stdout.isatty() else 100).print(table)
