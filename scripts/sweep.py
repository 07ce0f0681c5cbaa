"""``mmtab sweep``: search settings over datasets and seeds. ``--help`` says more."""

from mmtab.cli.main import run

if __name__ == "__main__":
    run("sweep")
