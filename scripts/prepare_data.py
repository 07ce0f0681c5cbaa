"""``mmtab prepare``: from raw tables to a described, checked dataset folder. ``--help`` says more."""

from mmtab.cli.main import run

if __name__ == "__main__":
    run("prepare")
