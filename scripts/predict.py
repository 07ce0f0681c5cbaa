"""Predict unlabelled rows or pairs with a run.

    python scripts/predict.py run=FOLDER input=TABLE output=PREDICTIONS
    python scripts/predict.py run=FOLDER input=PAIRS left=TABLE right=TABLE output=PREDICTIONS

Tables and predictions are .csv or .parquet. coverage=0.9 leaves the tenth that the model is least sure of without a
prediction; cost=5 says that a false match costs five times as much as a missed one.
"""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mmtab.cli.main import main
from mmtab.config.types import Hardware


@main("predict")
def predict(config: DictConfig) -> None:
    places = [Path(config[name]) for name in ("run", "input", "output")]
    more: dict[str, Any] = {name: Path(config[name]) for name in ("left", "right", "records") if config[name]}
    more |= {name: config[name] for name in ("coverage", "cost")}
    from mmtab.runs import run

    n = run.predict(*places, hardware=Hardware(config.accelerator, config.devices), **more)
    print(f"{n} predictions written to {config.output}")


if __name__ == "__main__":
    predict()
