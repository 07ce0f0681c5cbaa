"""``mmtab benchmark``: rank systems by their average over the datasets of a track. ``--help`` says more."""

from mmtab.cli.main import run

if __name__ == "__main__":
    run("benchmark")
