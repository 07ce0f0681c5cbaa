"""``mmtab challenge``: score submissions against labels that participants do not have. ``--help`` says more."""

from mmtab.cli.main import run

if __name__ == "__main__":
    run("challenge")
