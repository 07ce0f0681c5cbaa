"""Whether a run can match as it is asked, and what it writes: told before anything slow is imported or opened."""

from __future__ import annotations

from pathlib import Path

from mmtab.config.settings import check
from mmtab.config.types import MatchConfig, RunConfig
from mmtab.data import files
from mmtab.data.schema import Schema, TaskKind
from mmtab.runs.asked import check_tables
from mmtab.runs.folder import open_config, read_facts, read_schema
from mmtab.runs.inputs import check_output, check_outside
from mmtab.utils.errors import ConfigError, RunError


def clusters_path(output: Path) -> Path:
    return output.with_name(f"{output.stem}_clusters{output.suffix}")


def vectors_path(output: Path) -> Path:
    return output.with_name(f"{output.stem}_vectors.parquet")


def written(output: Path) -> list[Path]:
    """What may be written."""
    beside = [clusters_path(output), vectors_path(output), output.with_suffix(".json"), output.with_suffix(".html")]
    return [output, *beside]


def check_match(config: MatchConfig) -> tuple[RunConfig, Schema]:
    """The settings and the schema of the run. Raises ConfigError for settings that do not fit, RunError for a run that
    does not match, or has parts which are not trusted, and where a table that is read would be overwritten."""
    run, output = Path(config.run), Path(config.output)
    if output.suffix not in files.FORMATS:
        raise ConfigError(f"output={output}: expected a name ending in .parquet or .csv")
    check(config)
    read_facts(run)
    run_config, schema = open_config(run, config), read_schema(run)
    if schema.task is not TaskKind.MATCHING:
        fix = f"mmtab predict run={run} input=TABLE output=PREDICTIONS, or name a run of matching"
        raise RunError(f"{run} is a run of {schema.task}; mmtab match wants one of matching. Fix: {fix}")
    given = {name: getattr(config, name) for name in ("records", "left", "right", "truth", "labels")}
    check_tables(given)
    for path in written(output):
        check_output(path, [Path(table) for table in given.values() if table])
    check_outside(output, run)
    return run_config, schema
