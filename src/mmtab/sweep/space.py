"""Search spaces: which settings of a run vary, and between what.

trainer.lr: {low: 1e-4, high: 3e-3, log: true}
fusion.n_layers: {low: 1, high: 4}              whole numbers where both ends are; step: 2 leaves some out
text.n_tuned_layers: [0, 2, null]               choices; for a group too, as in fusion: [transformer, mean]
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from yaml import YAMLError

from mmtab.config.overrides import written
from mmtab.config.types import CONFIGS
from mmtab.utils.errors import ConfigError, did_you_mean, one_line

SPACES = CONFIGS / "sweep"
EXPECTED = "a list of choices, or {low: …, high: …} with log: true or step: …"
Value = str | int | float
Distribution = CategoricalDistribution | IntDistribution | FloatDistribution


@dataclass(frozen=True)
class Setting:
    """One setting and its values. A choice is kept as it stands on a command line, such as ``null`` or ``[image]``."""

    name: str
    distribution: Distribution

    def at(self, share: float) -> Value:
        """The value at a share in [0, 1) of the range, such that uniform shares give uniform choices."""
        d = self.distribution
        if isinstance(d, CategoricalDistribution) or not (d.log or d.step is None):
            values = self.values() or []
            return values[int(share * len(values))]
        if not d.log:
            return self.tidy(d.low + share * (d.high - d.low))
        half = 0.5 if isinstance(d, IntDistribution) else 0.0  # a whole number has half of what lies on either side
        low, high = math.log(d.low - half), math.log(d.high + half)
        return self.tidy(math.exp(low + share * (high - low)))

    def has(self, value: object) -> bool:
        """Whether it may have been drawn. Another one may be any override, and so name any code."""
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return value in (self.values() or [])
        kinds = (int,) if isinstance(d, IntDistribution) else (int, float)
        return type(value) in kinds and d.low <= value <= d.high  # type: ignore[operator]

    def tidy(self, value: Any) -> Value:
        """A value as it is used: whole, or with few digits, and between the ends."""
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return str(value)
        digits = 6 if d.step is None else 12
        rounded = round(value) if isinstance(d, IntDistribution) else float(f"{value:.{digits}g}")
        return min(max(rounded, d.low), d.high)

    def override(self, value: Value) -> str:
        """As ``mmtab train`` takes it."""
        return f"{self.name}={value if isinstance(value, str) else written(value)}"

    def values(self) -> list[Value] | None:
        """All values, in order; None if they have no end."""
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return [str(choice) for choice in d.choices]
        if d.step is None:
            return None
        return [self.tidy(d.low + d.step * i) for i in range(round((d.high - d.low) / d.step) + 1)]

    def ends(self) -> list[Value]:
        """Values to try a setting with: all choices, or the two ends."""
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return self.values() or []
        return [self.tidy(d.low), self.tidy(d.high)]


def read_space(name: str | None) -> dict[str, Any]:
    """The specifications of a space, by setting: a name of configs/sweep/, or a yaml file; None: an empty space."""
    if name is None:
        return {}
    named = SPACES / f"{name}.yaml"
    path = named if named.is_file() else Path(name).expanduser()
    if not path.is_file():
        hint = did_you_mean(name, (path.stem for path in SPACES.glob("*.yaml")))
        raise ConfigError(f"space={name}: neither a name of configs/sweep/ nor a yaml file; {hint}")
    try:
        space: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ConfigError(f"space {path}: it cannot be read as yaml: {one_line(error)}") from error
    if not isinstance(space, dict) or not all(isinstance(key, str) for key in space):
        raise ConfigError(f"space {path}: expected settings by name, each with {EXPECTED}")
    return space


def settings_of(space: dict[str, Any]) -> list[Setting]:
    """Raises ConfigError, naming the setting, for a specification that is no set of values."""
    return [Setting(name, _distribution(name, spec)) for name, spec in space.items()]


def grid_size(settings: list[Setting]) -> int:
    """How many draws a space has in all; raises ConfigError, naming the setting, if they have no end."""
    for setting in settings:
        if setting.values() is None:
            raise ConfigError(
                f"sampler=grid: {setting.name} has no end of values; give it choices or a step, or take another sampler"
            )
    return math.prod(len(setting.values() or []) for setting in settings)


def grid_point(settings: list[Setting], number: int) -> list[Value]:
    """The draw of that number; the last setting varies fastest."""
    points = itertools.product(*(setting.values() or [] for setting in settings))
    return list(next(itertools.islice(points, number, None)))


def _distribution(name: str, spec: Any) -> Distribution:
    where = f"space, {name}"
    if isinstance(spec, list):
        choices = [written(value) for value in spec]
        if not choices or len(set(choices)) < len(choices):
            raise ConfigError(f"{where}: expected choices, each once; found {spec}")
        return CategoricalDistribution(choices)
    if not isinstance(spec, dict) or not {"low", "high"} <= spec.keys() <= {"low", "high", "log", "step"}:
        raise ConfigError(f"{where}: expected {EXPECTED}; found {spec}")
    numbers = {key: value for key, value in spec.items() if key != "log" and (key, value) != ("step", None)}
    for key, value in numbers.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise ConfigError(f"{where}: {key}={value} is no number")
    low, high, log, step = spec["low"], spec["high"], spec.get("log", False), spec.get("step")
    if not isinstance(log, bool):
        raise ConfigError(f"{where}: log={log}; expected true or false")
    if low >= high:
        raise ConfigError(f"{where}: low={low} is not below high={high}")
    if log and (low <= 0 or step is not None):
        raise ConfigError(f"{where}: log wants low above 0, and no step")
    if step is not None:
        n_steps = round((high - low) / step) if step > 0 else 0
        if n_steps < 1 or not math.isclose(low + n_steps * step, high):
            raise ConfigError(f"{where}: step={step} does not lead from low={low} to high={high}")
    if all(isinstance(value, int) for value in numbers.values()):
        return IntDistribution(low, high, log=log, step=step or 1)
    return FloatDistribution(low, high, log=log, step=step)
