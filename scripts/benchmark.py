"""Every system on every dataset of a track, for some seeds, and a scoreboard of it all.

python scripts/benchmark.py                                           mmtab frozen and the controls, all tracks
python scripts/benchmark.py track=kway system=[frozen,majority] seeds=3 n_jobs=2
python scripts/benchmark.py system=[cheap,autogluon_tabular] output=FOLDER

It may be killed; the same command goes on, and runs nothing again that is finished. output=FOLDER gets results.parquet and
scoreboard.html, .md and .csv. Tracks are in configs/track/, systems in configs/system/.
"""

from omegaconf import DictConfig, OmegaConf

from mmtab.cli.main import main
from mmtab.config.types import BenchmarkConfig


@main("benchmark")
def benchmark(config: DictConfig) -> None:
    whole = OmegaConf.merge(OmegaConf.structured(BenchmarkConfig), OmegaConf.to_container(config, resolve=True))
    settings = OmegaConf.to_object(whole)
    assert isinstance(settings, BenchmarkConfig)
    from pathlib import Path

    from mmtab.benchmark.runner import run_benchmark

    board = run_benchmark(settings)
    print((Path(settings.output) / "scoreboard.md").read_text(encoding="utf-8"))
    print(f"scoreboard: {Path(settings.output) / 'scoreboard.html'}")
    for failure in board.failures:
        print(f"failed: {failure.entry}, {failure.dataset}, seed {failure.seed}: {failure.error}")


if __name__ == "__main__":
    benchmark()
