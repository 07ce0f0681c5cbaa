"""Score a run on a labelled split: python scripts/evaluate.py run=FOLDER split=test [path=DATASET_FOLDER]"""

from pathlib import Path

from omegaconf import DictConfig

from mmtab.cli import main, print_metrics
from mmtab.config import Hardware


@main("evaluate")
def evaluate(config: DictConfig) -> None:
    folder, path = Path(config.run), Path(config.path) if config.path else None
    from mmtab import ranks, run

    metrics = run.evaluate(folder, config.split, path, Hardware(config.accelerator, config.devices))
    if ranks.is_first():
        print_metrics(config.run, {config.split: metrics})


if __name__ == "__main__":
    evaluate()
