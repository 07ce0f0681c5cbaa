"""Commands whose settings Hydra composes from configs/COMMAND.yaml and the overrides on the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mmtab.config.compose import SETTINGS, dataset_place, paths_of, register, resolve, without_hydra
from mmtab.config.overrides import literal, split_overrides
from mmtab.config.parts import trust
from mmtab.config.types import CONFIGS, LocalSettings
from mmtab.utils.exits import friendly
from mmtab.utils.processes import follow_parent


def run_composed(name: str, command: Callable[[Any], None], arguments: Sequence[str]) -> None:
    """Like ``hydra.main`` on configs/NAME.yaml, with checked settings, and help that says what each of them means."""
    if {"-h", "--help"} & set(arguments):
        from mmtab.cli.help import print_help

        return print_help(name, command, [argument for argument in arguments if not argument.startswith("-")])
    import hydra
    from hydra.errors import HydraException

    own_arguments = list(sys.argv)  # by which Lightning starts the further processes of a training

    def task(config: DictConfig) -> None:
        sys.argv[:] = own_arguments
        with friendly():
            settings: Any = resolve(config, SETTINGS[name])
            if isinstance(settings, LocalSettings):
                trust(settings.trust)
            command(settings)
        if "torch" in sys.modules:
            from mmtab.utils import distributed

            distributed.leave()

    register()
    follow_parent()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # else Hydra would show a traceback of what is caught here
    try:
        with without_hydra():
            paths, sweeps = paths_of(name), bool({"-m", "--multirun"} & set(arguments))
            given = [override for argument in arguments for override in _with_folder(argument)]
            sys.argv[1:] = [literal(split_overrides(argument), paths, sweeps) for argument in given]
            hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=name)(task)()
    except HydraException as error:
        print(error, *([error.__cause__] if error.__cause__ else []), sep="\n", file=sys.stderr, flush=True)
        sys.exit(1)
    finally:
        sys.argv[:] = own_arguments


def _with_folder(argument: str) -> Sequence[str]:
    """``dataset=FOLDER`` as the overrides that it stands for."""
    name, _, entry = argument.partition("=")
    is_path = name == "dataset" and (os.sep in entry or Path(entry).is_dir())
    return dataset_place(entry, "dataset")[1] if is_path else [argument]
