"""What ``import mmtab`` offers: what the commands do, for notebooks and programs that hold tables in memory."""

from mmtab.api.datasets import Dataset, load_dataset
from mmtab.api.fit import fit
from mmtab.api.run import Predictor, Run, load_run

__all__ = ["Dataset", "Predictor", "Run", "fit", "load_dataset", "load_run"]
