"""Train a run again and compare every metric with what its folder says.

    python scripts/reproduce.py run=FOLDER                    path=DATASET, where the data have moved
    python scripts/reproduce.py run=FOLDER tolerance=0.002    how far a metric may be off

Exit status 1 where a metric is further off. What is different around the run (versions, commit, hardware) is listed.
"""

import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from mmtab.cli.main import main, print_metrics
from mmtab.config.types import ReproduceConfig


@main("reproduce")
def again(config: DictConfig) -> None:
    settings = ReproduceConfig(**OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
    from mmtab.runs import reproduce

    found = reproduce.reproduce(settings, Path(HydraConfig.get().runtime.output_dir))
    columns = {name: {each.what: getattr(each, name) for each in found.metrics} for name in ("then", "now")}
    print_metrics(settings.run, columns)
    for each in found.around:
        print(f"different: {each.what}: {each.then} then, {each.now} now")
    for split, n in found.n_predictions_changed.items():
        print(f"{split}: {n} predictions changed")
    worst = found.worst()
    print("the same to the last digit" if worst == 0 else f"metrics differ by up to {worst:.3g}")
    sys.exit(int(worst > settings.tolerance))


if __name__ == "__main__":
    again()
