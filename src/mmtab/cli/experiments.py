"""``mmtab match``, ``sweep``, ``benchmark`` and ``results``: what goes beyond one run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmtab.cli.output import APP, print_metrics, say_first
from mmtab.config.ranking import BenchmarkConfig
from mmtab.config.types import MatchConfig, SweepConfig
from mmtab.utils.progress import under_way

results_app = typer.Typer(**APP)


def match(settings: MatchConfig) -> None:
    """Match two tables, or find the duplicates of one: blocking, scoring, clustering, a page to look through.

    mmtab match run=FOLDER left=TABLE right=TABLE output=MATCHES
    mmtab match run=FOLDER records=TABLE output=MATCHES        one table to deduplicate
    mmtab match run=FOLDER output=MATCHES truth=PAIRS          the tables of the run's dataset, scored

    MATCHES is .csv or .parquet: pairs with score, cluster and the columns that count for and against. Beside it appear
    MATCHES_clusters (every record in one cluster), a .json of counts and scores, and a .html page. The same command
    resumes what was killed.
    """
    from mmtab.matching.asked import check_match, clusters_path

    check_match(settings)
    tables = " and ".join(filter(None, (settings.records, settings.left, settings.right)))
    say_first(f"matching {tables or 'the tables of the dataset'}", settings.run)
    with under_way("loading torch"):
        from mmtab.reports.matches import write_result

    print_metrics(f"matches in {settings.output}", write_result(settings))
    output = Path(settings.output).expanduser()
    beside = {"page": output.with_suffix(".html"), "clusters": clusters_path(output)}
    if written := [f"{name}: {path}" for name, path in beside.items() if path.is_file()]:
        print("; ".join(written))


def sweep(settings: SweepConfig) -> None:
    """A sweep: datasets x seeds x a search space, as runs of mmtab train; it may be stopped, killed and resumed.

    mmtab sweep output=sweeps/seeds datasets=[fashion,music] seeds=[0,1,2]
    mmtab sweep output=sweeps/first datasets=[fashion,music] space=optimiser n_trials=20 n_jobs=2
    mmtab sweep output=sweeps/depth datasets=[fashion] space=text_depth sampler=grid 'overrides=[trainer.max_epochs=3]'

    The same command resumes it, and prints the summary when nothing is left to do. Several may run at once, also on
    several machines with storage=DATABASE. Spaces are in configs/sweep/; space=FILE.yaml takes one of your own.
    """
    from mmtab.sweep.runner import run_sweep

    print(run_sweep(settings))


def benchmark(settings: BenchmarkConfig) -> None:
    """Every system on every dataset of a track, for some seeds, and a scoreboard of it all.

    mmtab benchmark                                           mmtab frozen and the controls, all tracks
    mmtab benchmark track=kway system=[frozen,majority] seeds=3 n_jobs=2
    mmtab benchmark system=[cheap,autogluon_tabular] output=FOLDER
    mmtab benchmark track=kway track.kway.datasets=[FOLDER] beside=multabench     with what is published of FOLDER

    It may be killed; the same command resumes it and repeats nothing that is finished. FOLDER gets results.parquet and
    scoreboard.html, .md and .csv. Tracks are in configs/track/, systems in configs/system/.
    """
    from mmtab.benchmark.runner import run_benchmark

    board = run_benchmark(settings)
    print((Path(settings.output) / "scoreboard.md").read_text(encoding="utf-8"))
    if settings.beside:
        print((Path(settings.output) / f"{settings.beside}.md").read_text(encoding="utf-8"))
    print(f"scoreboard: {Path(settings.output) / 'scoreboard.html'}")
    for failure in board.failures:
        print(f"failed: {failure.entry}, {failure.dataset}, seed {failure.seed}: {failure.error}")


@results_app.command()
def results(
    folders: Annotated[list[Path], typer.Argument(help="run folders, or folders that hold some")],
    split: Annotated[str, typer.Option(help="the split of the scores")] = "test",
    refresh: Annotated[Path | None, typer.Option(help="a Markdown file to put the table into")] = None,
    mark: Annotated[str, typer.Option(help="between <!-- MARK --> and <!-- /MARK --> of it")] = "results",
) -> None:
    """A Markdown table of runs, averaged over seeds, beside figures for reference."""
    from mmtab.reports import results

    text = results.markdown(results.collect(folders, split))
    print(text)
    if refresh:
        results.refresh(refresh, mark, text)
