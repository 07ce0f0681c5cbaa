"""Predict unlabelled rows or pairs with a run.

    python scripts/predict.py run=FOLDER input=TABLE output=PREDICTIONS
    python scripts/predict.py run=FOLDER input=PAIRS left=TABLE right=TABLE output=PREDICTIONS

Tables and predictions are .csv or .parquet.
"""

from pathlib import Path

from omegaconf import DictConfig

from mmtab.cli import main
from mmtab.config import Hardware


@main("predict")
def predict(config: DictConfig) -> None:
    places = [Path(config[name]) for name in ("run", "input", "output")]
    tables = {name: Path(config[name]) for name in ("left", "right", "records") if config[name]}
    from mmtab import run

    n = run.predict(*places, hardware=Hardware(config.accelerator, config.devices), **tables)
    print(f"{n} predictions written to {config.output}")


if __name__ == "__main__":
    predict()
