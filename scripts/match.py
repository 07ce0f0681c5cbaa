"""Match two tables, or find what one holds twice: blocking, scoring, clustering, a page to look through.

python scripts/match.py run=FOLDER left=TABLE right=TABLE output=MATCHES
python scripts/match.py run=FOLDER records=TABLE output=MATCHES        one table to deduplicate
python scripts/match.py run=FOLDER output=MATCHES truth=PAIRS          the tables of the run's dataset, scored

MATCHES is .csv or .parquet: pairs with score, cluster and the columns that spoke for and against. Beside it appear
MATCHES_clusters (every record in one cluster), a .json of counts and scores, and a .html page. A run that was killed goes on
where it stopped.
"""

from omegaconf import DictConfig, OmegaConf

from mmtab.cli.main import main, print_metrics
from mmtab.config.types import MatchConfig


@main("match")
def match(config: DictConfig) -> None:
    settings = MatchConfig(**OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
    from mmtab.reports.matches import write_result

    report = write_result(settings)
    print_metrics(f"matches in {settings.output}", report)


if __name__ == "__main__":
    match()
