"""``mmtab train``: train on a dataset, then score the test split and write a report. ``--help`` says more."""

from mmtab.cli.main import run

if __name__ == "__main__":
    run("train")
