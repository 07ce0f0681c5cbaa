"""Write the report page of a run, or compare several.

    python scripts/report.py run=FOLDER [split=valid]              FOLDER/report/report.html and its pictures
    python scripts/report.py run=[FOLDER,FOLDER] output=PAGE.html  side by side, on rows that all of them scored

ablation=false leaves out what takes longest: scoring valid again without each column and modality.
"""

from pathlib import Path

from omegaconf import DictConfig, ListConfig

from mmtab.cli.main import main
from mmtab.config.types import Hardware


@main("report")
def report(config: DictConfig) -> None:
    runs = [Path(each) for each in config.run] if isinstance(config.run, ListConfig) else [Path(config.run)]
    from mmtab.reports import run_page, runs_page
    from mmtab.runs.session import progress_of

    options = {
        "split": config.split,
        "ablation": config.ablation,
        "hardware": Hardware(config.accelerator, config.devices),
    }
    paths = [run_page.write_report(run, **options, progress=progress_of) for run in runs]
    if len(runs) > 1:
        paths.append(runs_page.write_comparison(runs, Path(config.output), config.split))
    for path in paths:
        print(f"written: {path}")


if __name__ == "__main__":
    report()
