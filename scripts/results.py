"""A table of runs beside published and floor scores: python scripts/results.py RUN_FOLDER [RUN_FOLDER …] [--refresh RESULTS.md]

Reads metrics.json and provenance.json of every run folder given (or found below), averages over seeds, and prints
Markdown; --refresh FILE puts it between the marks <!-- results --> and <!-- /results --> of a file (--mark: another name).
"""

import argparse
from pathlib import Path

from mmtab.reports.results import collect, markdown, refresh
from mmtab.utils.exits import friendly

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folders", nargs="+", type=Path)
parser.add_argument("--split", default="test")
parser.add_argument("--refresh", type=Path)
parser.add_argument("--mark", default="results")
arguments = parser.parse_args()
with friendly():
    text = markdown(collect(arguments.folders, arguments.split))
    print(text)
    if arguments.refresh:
        refresh(arguments.refresh, arguments.mark, text)
