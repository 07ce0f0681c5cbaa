"""``mmtab report``: write the report page of a run, or compare several. ``--help`` says more."""

from mmtab.cli.main import run

if __name__ == "__main__":
    run("report")
