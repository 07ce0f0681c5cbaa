"""``mmtab match``: match two tables or deduplicate one, with a run. ``--help`` says more."""

from mmtab.cli.main import run

if __name__ == "__main__":
    run("match")
