"""Train on a dataset and, once the model is fixed, score it on the test split.

python scripts/train.py                          the shipped catalogue
python scripts/train.py dataset=fashion seed=1   a dataset under data_root (or MMTAB_DATA)
python scripts/train.py dataset=custom dataset.path=FOLDER
python scripts/train.py -m dataset=fashion,music seed=0,1
"""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from mmtab.cli.main import main, print_metrics
from mmtab.config.compose import typed


@main("train")
def train(config: DictConfig) -> None:
    run_config = typed(config)
    folder = Path(HydraConfig.get().runtime.output_dir)
    from mmtab.reports.run_page import report_after
    from mmtab.runs import run
    from mmtab.utils import distributed as ranks

    columns = {"valid": run.train(run_config, folder)}
    if run_config.test and (tested := run.evaluate_if_labelled(folder, "test")) is not None:
        columns["test"] = tested
    if not ranks.is_first():
        return
    if ceiling := run.ceiling(folder):
        columns["ceiling"] = ceiling
    print_metrics(f"{run_config.dataset.name}, seed {run_config.seed}", columns)
    report = [report_after(folder)] if run_config.report else []
    print(*report, f"run folder: {folder}", sep="\n")


if __name__ == "__main__":
    train()
