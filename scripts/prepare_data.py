"""From raw tables to a described, checked dataset folder; each step is a command of its own.

python scripts/prepare_data.py all products.csv --label type -o my_dataset     every step below in one go
python scripts/prepare_data.py infer products.csv -o my_dataset                propose dataset.yaml: which column is what
python scripts/prepare_data.py split my_dataset --method grouped --by brand    train, valid, test
python scripts/prepare_data.py check my_dataset                                the standard, and honesty alarms
python scripts/prepare_data.py describe my_dataset                             card.md and card.html
python scripts/prepare_data.py convert my_dataset -o other --to parquet --images embed
python scripts/prepare_data.py import openmoji -o data/openmoji                a public benchmark; no name lists them
"""

from mmtab.cli.commands import run

if __name__ == "__main__":
    run()
