"""Commands whose settings Hydra composes from configs/COMMAND.yaml and the overrides on the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from omegaconf.errors import GrammarParseError

from mmtab.cli.dialects import as_settings
from mmtab.config.compose import SETTINGS, dataset_place, locate, paths_of, reason, register, resolve, without_hydra
from mmtab.config.overrides import literal, split_overrides, written
from mmtab.config.parts import trust
from mmtab.config.settings import walk
from mmtab.config.types import CONFIGS, LocalSettings
from mmtab.utils.errors import ConfigError
from mmtab.utils.exits import friendly
from mmtab.utils.machine import has_gpu
from mmtab.utils.paths import check_writable
from mmtab.utils.processes import follow_parent
from mmtab.utils.progress import showing


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
            check_place(settings)
            with showing():
                command(settings)
        if "torch" in sys.modules:
            from mmtab.utils import distributed

            distributed.leave()

    register()
    follow_parent()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # else Hydra would show a traceback of what is caught here
    try:
        with without_hydra():
            arguments = as_settings(arguments, SETTINGS[name])
            paths, sweeps = paths_of(name), bool({"-m", "--multirun"} & set(arguments))
            if sweeps and (own := [argument for argument in arguments if argument.startswith("output=")]):
                raise ConfigError(f"{own[0]}: each run of -m has a folder of its own. Fix: hydra.sweep.dir=FOLDER")
            for argument in arguments:
                if (
                    argument.endswith("=")
                    and argument != "dataset="
                    and (paths.get(argument.strip("+=")) or argument == "hydra.run.dir=")
                ):
                    raise ConfigError(f"{argument}: expected a value. Fix: {argument}VALUE, or leave it out")
            given = _named([override for argument in arguments for override in _with_folder(argument)])
            sys.argv[1:] = [split_overrides(literal(argument, paths, sweeps)) for argument in given]
            hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=name)(task)()
    except GrammarParseError as error:  # Hydra notes the folder of a run as a text of its own
        if error.full_key != "hydra.runtime.output_dir":
            raise
        problem = "the folder of a run cannot have a name in which ${ is not closed"
        raise ConfigError(f"output={error.value}: {problem}. Fix: give another output=FOLDER") from error
    except HydraException as error:
        raise ConfigError(reason(error, name)) from error
    finally:
        sys.argv[:] = own_arguments


def _with_folder(argument: str) -> Sequence[str]:
    """``dataset=FOLDER`` as the overrides that it stands for."""
    name, _, entry = argument.partition("=")
    if name != "dataset":
        return [argument]
    if not entry:
        raise ConfigError("dataset=: expected a name of configs/dataset/, or a dataset folder")
    if entry[0] == "[":
        raise ConfigError(f"{argument}: a run has one dataset. Fix: train -m dataset={entry[1:-1]} makes a run of each")
    place = locate(entry)
    if isinstance(place, str) or not (os.sep in entry or place.exists()):
        return [argument]
    folder, overrides = dataset_place(entry, "dataset")
    return [*overrides, f"dataset.name={written(folder)}"]


def _named(overrides: Sequence[str]) -> Sequence[str]:
    """A dataset that only its folder names has the name of that."""
    given = dict(override.partition("=")[::2] for override in overrides)
    path = given.get("dataset.path", "").strip("'\"")
    if given.get("dataset") != "custom" or "dataset.name" in given or not path or "${" in path or "," in path:
        return overrides
    return [*overrides, f"dataset.name={written(Path(path).expanduser().resolve().name)}"]


def check_place(settings: Any) -> None:
    """Whether there are the files, runs and hardware that the settings name, before anything slow is imported."""
    from mmtab.runs.folder import read_facts
    from mmtab.utils.addresses import address_of, check_here

    for name, rule, value in walk(settings):
        texts = (value if isinstance(value, list) else [value]) if rule.kind in ("path", "paths") and value else []
        for text in filter(None, texts):
            if not rule.remote:
                check_here(text, name)
            path = Path(text)
            if rule.exists and address_of(path) is None and not path.expanduser().exists():
                export = f". Fix: name a folder; mmtab.load_run({str(path)!r}).folder is that of an export on the hub"
                of_hub = name == "run" and len(path.parts) == 2 and not path.is_absolute()  # OWNER/NAME
                raise ConfigError(f"{name}={path}: no such file or folder{export if of_hub else ''}")
            if name == "run" and rule.exists:
                read_facts(path.expanduser())
            if name == "output":
                check_writable(path, name, is_file=bool(rule.suffixes))
    accelerator = getattr(getattr(settings, "trainer", settings), "accelerator", "auto")
    if accelerator in ("gpu", "cuda") and not has_gpu():
        raise ConfigError(f"accelerator={accelerator}: this machine shows no GPU. Fix: accelerator=auto, or cpu")
