"""A sweep: datasets x seeds x a search space, as runs of scripts/train.py; it may be stopped, killed and resumed.

python scripts/sweep.py output=sweeps/seeds datasets=[fashion,music] seeds=[0,1,2]
python scripts/sweep.py output=sweeps/first datasets=[fashion,music] space=optimiser n_trials=20 n_jobs=2
python scripts/sweep.py output=sweeps/depth datasets=[fashion] space=text_depth sampler=grid 'overrides=[trainer.max_epochs=3]'

The same command goes on with what is there, and prints the summary when nothing is left to do. Several may run at once, also
on several machines with storage=DATABASE. Spaces are in configs/sweep/; space=FILE.yaml takes one of your own.
"""

import sys

from omegaconf import DictConfig, OmegaConf

from mmtab.cli.main import main
from mmtab.config.overrides import split_overrides
from mmtab.config.types import SweepConfig


@main("sweep")
def sweep(config: DictConfig) -> None:
    settings = SweepConfig(**OmegaConf.to_container(config, resolve=True, throw_on_missing=True))  # type: ignore[arg-type]
    from mmtab.sweep.runner import run_sweep

    print(run_sweep(settings))


if __name__ == "__main__":
    sys.argv[1:] = map(split_overrides, sys.argv[1:])
    sweep()
