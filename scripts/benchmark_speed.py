"""``mmtab speed``: how fast mmtab is on this machine. ``--help`` says more."""

from mmtab.cli.main import run

if __name__ == "__main__":
    run("speed")
