"""``mmtab results``: a Markdown table of runs beside published scores. ``--help`` says more."""

from mmtab.cli.main import run

if __name__ == "__main__":
    run("results")
