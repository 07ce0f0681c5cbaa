"""``mmtab predict``: predict rows or pairs of a table with a run. ``--help`` says more."""

from mmtab.cli.main import run

if __name__ == "__main__":
    run("predict")
