"""``mmtab challenge``: submissions are scored against labels that the participants do not have.

mmtab challenge open my_challenge --dataset fashion --dataset abt_buy   secret/, and handout/ to send to participants
mmtab challenge open my_challenge --track NAME                          datasets and tracks of configs/track/NAME.yaml
mmtab challenge check my_challenge fashion predictions.csv              would it be accepted? scores nothing
mmtab challenge send my_challenge "Team A" fashion.parquet              score and keep it; prints the public score
mmtab challenge send my_challenge "Team A" predictions/                 one <dataset>.parquet or .csv each, all or none
mmtab challenge history my_challenge "Team A"                           all attempts
mmtab challenge standings my_challenge -o board                         by public scores; --final by private ones
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import yaml

from mmtab.cli.output import APP, print_line, print_table
from mmtab.config.types import CONFIGS
from mmtab.utils.errors import ConfigError

ABOUT = "Predictions are handed in and scored against labels that the participants do not have."
app = typer.Typer(no_args_is_help=True, help=ABOUT, **APP)
ChallengeFolder = Annotated[Path, typer.Argument(help="the folder of a challenge", show_default=False)]
Team = Annotated[str, typer.Argument(help="its name", show_default=False)]


@app.command(name="open")
def open_(
    folder: Annotated[Path, typer.Argument(help="the new folder", show_default=False)],
    dataset: Annotated[list[str] | None, typer.Option(help="a name or a folder; again for more")] = None,
    track: Annotated[
        list[str] | None, typer.Option(help="datasets and tracks of configs/track/NAME.yaml; again for more")
    ] = None,
    title: Annotated[str, typer.Option(help="of the scoreboard; the folder's name")] = "",
    public_share: Annotated[float, typer.Option(help="of the test rows, whose score is shown while it runs")] = 0.5,
    per_day: Annotated[int, typer.Option(help="submissions of a team for a dataset in a day (UTC)")] = 5,
    seed: Annotated[
        int | None, typer.Option(help="of the public rows; keep it secret. From the system's entropy")
    ] = None,
    copy: Annotated[
        bool, typer.Option("--copy/--link", help="the handout has its own files, or hard links to the dataset's")
    ] = True,
) -> None:
    """Open a challenge: secret labels, and the handout for participants. Without --track a track for each task."""
    from mmtab.benchmark.challenge import HANDOUT, open_challenge

    folders, tracks = _datasets_and_tracks(dataset or [], track or [])
    challenge = open_challenge(
        folder,
        folders,
        tracks,
        title=title or folder.resolve().name,
        public_share=public_share,
        per_day=per_day,
        seed=seed,
        copy=copy,
    )
    rows = [
        (d, str(challenge.truth(d).schema.metric), *(f"{len(challenge.rows(d, public)):,}" for public in (True, False)))
        for d in challenge.datasets
    ]
    print_table(challenge.title, ["dataset", "metric", "public rows", "private rows"], rows)
    print_line(f"written: {folder}; send {folder / HANDOUT} to participants, keep all else")


@app.command(name="check")
def check_submission(
    folder: ChallengeFolder, dataset: str, file: Annotated[Path, typer.Argument(help="predictions, .parquet or .csv")]
) -> None:
    """Whether a predictions file would be accepted. Scores nothing and counts for nothing."""
    from mmtab.benchmark.challenge import check

    answers = check(folder, dataset, file)
    probabilities = "without probabilities" if answers.probability is None else "with probabilities"
    print_line(f"{file}: {len(answers.prediction):,} rows of {dataset}, {probabilities}; would be accepted")


@app.command()
def send(
    folder: ChallengeFolder,
    team: Team,
    files: Annotated[
        Path, typer.Argument(help="predictions, or a folder of <dataset>.parquet or .csv", show_default=False)
    ],
    dataset: Annotated[str | None, typer.Option(help="of one file; by default its name says it")] = None,
) -> None:
    """Check, score and keep predictions: all of a folder or none. Prints a receipt with the public score."""
    from mmtab.benchmark.challenge import files_in, submit

    if files.is_dir() and dataset is not None:
        raise ConfigError("--dataset is for one file; those of a folder are called <dataset>.parquet or <dataset>.csv")
    receipts = submit(folder, team, files_in(folder, files) if files.is_dir() else {dataset or files.stem: files})
    rows = []
    for r in receipts:
        attempt = f"{r.attempt}{' (as before)' if r.again else ''}"
        rows.append((r.dataset, attempt, str(r.left_today), r.metric, f"{r.public:g}", r.sha256[:12]))
    head = ["dataset", "attempt", "left today", "metric", "public score", "sha256"]
    print_table(f"{receipts[0].team}, {receipts[0].time}", head, rows)


@app.command()
def standings(
    folder: ChallengeFolder,
    final: Annotated[bool, typer.Option("--final", help="private scores, once the challenge is over")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="where to write the scoreboard")] = None,
) -> None:
    """Who leads, by the public scores; with --final who won, by the private ones of the same submissions."""
    from mmtab.benchmark.challenge import ranked, standings

    board = standings(folder, final)
    for track, members in board.tracks.items():
        rows = []
        for place, entry, mean in ranked(board, track):
            scores = ["" if not entry.of(name) else f"{entry.of(name)[0].value:.4f}" for name in members]
            rows.append((str(place or ""), entry.title, "" if mean is None else f"{mean:.4f}", *scores, entry.about))
        print_table(f"{board.title}: {track}", ["place", "team", "average", *members, ""], rows)
    print_line(f"scored on {board.facts['scored on']}")
    if output is not None:
        from mmtab.benchmark.scoreboard import write_scoreboard

        write_scoreboard(board, output)
        print_line(f"written: {output}")


@app.command()
def history(folder: ChallengeFolder, team: Team) -> None:
    """All attempts of a team, with their public scores."""
    from mmtab.benchmark.challenge import history

    attempts = history(folder, team)
    rows = [
        (a.time, a.dataset, a.status, str(a.attempt or ""), "" if a.public is None else f"{a.public:g}", a.reason)
        for a in attempts
    ]
    print_table(team.strip(), ["time", "dataset", "status", "attempt", "public score", "reason"], rows)


def _datasets_and_tracks(datasets: list[str], track_files: list[str]) -> tuple[dict[str, Path], dict[str, list[str]]]:
    """The folders of all datasets by name, and the names by track; without ``track_files`` a track for each task."""
    from mmtab.api import load_dataset

    folders: dict[str, Path] = {}
    tracks: dict[str, list[str]] = {}
    for entry in datasets:
        dataset = load_dataset(entry)
        name = dataset.schema.name if Path(entry).name != entry or Path(entry).is_dir() else entry
        if folders.setdefault(name, dataset.folder) != dataset.folder:
            raise ConfigError(f"--dataset {entry}: another dataset is called {name} too")
        if not track_files:
            tracks.setdefault(str(dataset.schema.task), []).append(name)
    for file in track_files:
        tracks |= _tracks(file)
    for name in [name for names in tracks.values() for name in names]:
        if name not in folders:
            folders[name] = load_dataset(name).folder
    if outside := sorted(set(folders) - {name for names in tracks.values() for name in names}):
        raise ConfigError(f"--dataset {outside[0]}: it is of none of the tracks {', '.join(tracks)}")
    return folders, tracks


def _tracks(name: str) -> dict[str, list[str]]:
    """The tracks of configs/track/NAME.yaml, each ``{datasets: [names]}``, or of such a file elsewhere."""
    path = next((path for path in (CONFIGS / "track" / f"{name}.yaml", Path(name)) if path.is_file()), None)
    if path is None:
        names = ", ".join(sorted(path.stem for path in (CONFIGS / "track").glob("*.yaml"))) or "none"
        raise ConfigError(f"--track {name}: configs/track has {names}; or name a yaml file")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        if "defaults" in raw:  # such as all.yaml, which is the others together
            return {track: members for file in raw["defaults"] for track, members in _tracks(file).items()}
        return {str(track): [str(member) for member in about["datasets"]] for track, about in raw.items()}
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: expected tracks such as 'kway: {{datasets: [fashion, music]}}'") from error
