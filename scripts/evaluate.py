"""Score a run on a labelled split: python scripts/evaluate.py run=FOLDER split=test [path=DATASET_FOLDER]"""

from pathlib import Path

from omegaconf import DictConfig

from mmtab.cli import main, print_metrics


@main("evaluate")
def evaluate(config: DictConfig) -> None:
    from mmtab import run

    path = Path(config.path) if config.path else None
    metrics = run.evaluate(Path(config.run), config.split, path, config.accelerator)
    print_metrics(config.run, {config.split: metrics})


if __name__ == "__main__":
    evaluate()
