"""``logger=[csv,wandb,tensorboard,mlflow]``: what gets the metrics of each step."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy_data import write_kway

from mmtab.config.compose import compose
from mmtab.runs.folder import learning_curves, open_config
from mmtab.runs.train import train
from mmtab.utils.errors import ConfigError


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_logger_has_what_metrics_csv_has(
    name: str, tmp_path: Path, configure: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(name)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    data = write_kway(tmp_path / "data", images=False)
    train(configure(data, f"logger=[csv,{name}]"), tmp_path / "run")
    expected = [row["valid/accuracy"] for row in learning_curves(tmp_path / "run") if "valid/accuracy" in row]
    if name == "tensorboard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
        events.Reload()
        found = [event.value for event in events.Scalars("valid/accuracy")]
    else:
        from mlflow.tracking import MlflowClient

        client = MlflowClient(f"sqlite:///{tmp_path / 'run' / 'mlflow.db'}")
        (experiment,) = client.search_experiments(filter_string="name = 'custom'")
        (run,) = client.search_runs([experiment.experiment_id])
        found = [metric.value for metric in client.get_metric_history(run.info.run_id, "valid/accuracy")]
        assert run.data.params["d_model"] == "16" and run.info.status == "FINISHED"
    assert found == pytest.approx(expected) and len(found) >= 2
    assert open_config(tmp_path / "run").logger == ["csv"], "whoever opens a run says where to log"


def test_a_library_that_is_missing_is_named_before_anything_is_read(
    tmp_path: Path, configure: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tensorboard", "mlflow"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ConfigError, match=rf'this needs {name}. Fix: pip install "mmtab\[{name}\]"'):
            train(configure(tmp_path / "no data", f"logger=[{name}]"), tmp_path / "run")


def test_wandb_is_a_logger_with_settings_of_its_own() -> None:
    place = ["dataset=custom", "dataset.path=unused", "output=unused"]
    modes = [
        compose(*place, *own).wandb.mode
        for own in ([], ["logger=[csv,wandb]"], ["logger=[wandb]", "wandb.mode=offline"], ["wandb.mode=offline"])
    ]
    assert modes == ["disabled", "online", "offline", "offline"]
    with pytest.raises(ConfigError, match=r"wandb\.mode=disabled, but logger names wandb"):
        compose(*place, "logger=[csv,wandb]", "wandb.mode=disabled")
    with pytest.raises(ConfigError, match="logger=neptune: expected one of csv, wandb"):
        compose(*place, "logger=[neptune]")
