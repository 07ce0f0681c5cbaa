"""``mmtab cache``: what the cache holds, and making room in it. ``--help`` says more."""

from mmtab.cli.main import run

if __name__ == "__main__":
    run("cache")
