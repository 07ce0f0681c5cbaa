"""Where checkpoints lie in a run folder."""

from pathlib import Path

BEST, LAST = Path("checkpoints/best.ckpt"), Path("checkpoints/last.ckpt")
