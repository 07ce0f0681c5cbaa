"""A challenge that one person runs and many teams enter: predictions are submitted and scored against labels that the
participants do not have. The organiser's account runs all of this; participants get ``handout/`` and what is printed.

    challenge.yaml        title, tracks, per_day, public_share, created
    handout/<dataset>/    the dataset without the labels of test, to send to participants
    secret/<dataset>/     the labels, and which rows are public: a random part of each class, drawn once
    files/                accepted files, by their sha256, and their predictions in the order of the rows
    submissions.sqlite    every attempt, with its public and its private score

While the challenge runs only scores on the public rows are shown, in steps (``ladder``). In the end the private score
of the submission that raised the public one last counts, so that nobody wins by trying often. A submitted file is data,
never code, and never trusted: it is copied first, as a regular file of bounded size, and the copy is hashed, checked
and scored."""

from mmtab.benchmark.challenge.folder import HANDOUT, Challenge, open_challenge
from mmtab.benchmark.challenge.leaderboard import history, ranked, standings
from mmtab.benchmark.challenge.submissions import check, files_in, submit

__all__ = ["HANDOUT", "Challenge", "check", "files_in", "history", "open_challenge", "ranked", "standings", "submit"]
