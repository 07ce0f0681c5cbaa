"""``mmtab evaluate``: score a run on a labelled split. ``--help`` says more."""

from mmtab.cli.main import run

if __name__ == "__main__":
    run("evaluate")
