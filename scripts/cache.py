"""What the cache holds, and making room in it.

python scripts/cache.py show                                  how large it is, by kind
python scripts/cache.py show --entries                        a line for each entry
python scripts/cache.py clean                                 what killed runs left
python scripts/cache.py clean --older-than 30 --kind images   and what was not used for 30 days
python scripts/cache.py clean --to 20 --dry-run               down to 20 GB; only say what would go
"""

from mmtab.cli.commands import cache_app, run

if __name__ == "__main__":
    run(cache_app)
