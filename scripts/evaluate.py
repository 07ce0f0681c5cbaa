"""Score a run on a labelled split and write its report: python scripts/evaluate.py run=FOLDER split=test [path=DATASET]"""

from pathlib import Path

from omegaconf import DictConfig

from mmtab.cli.main import main, print_metrics
from mmtab.config.types import Hardware


@main("evaluate")
def evaluate(config: DictConfig) -> None:
    folder, path = Path(config.run), Path(config.path) if config.path else None
    from mmtab.reports.run_page import report_after
    from mmtab.runs import run
    from mmtab.utils import distributed as ranks

    hardware = Hardware(config.accelerator, config.devices)
    metrics = run.evaluate(folder, config.split, path, hardware)
    if ranks.is_first():
        print_metrics(config.run, {config.split: metrics})
        if config.report:
            print(report_after(folder, config.split, path, hardware))


if __name__ == "__main__":
    evaluate()
