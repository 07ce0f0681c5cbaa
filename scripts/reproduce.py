"""``mmtab reproduce``: train a run again and compare every metric. ``--help`` says more."""

from mmtab.cli.main import run

if __name__ == "__main__":
    run("reproduce")
