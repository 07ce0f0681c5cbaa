"""``mmtab export``: the files of a run that predict, with a model card. ``--help`` says more."""

from mmtab.cli.main import run

if __name__ == "__main__":
    run("export")
