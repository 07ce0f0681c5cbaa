"""Whatever a disk does to a cache, a table is encoded to the same numbers."""

from __future__ import annotations

import contextlib
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import damage_at_random
from toy_data import write_kway

from mmtab.config.types import CategoryRules
from mmtab.data.schema import Schema
from mmtab.data.table import read_split
from mmtab.features.backbones import Backbones, ImageBackbone, TextBackbone, TextSpec
from mmtab.features.cache import FeatureCache
from mmtab.features.encoded import encode_table
from mmtab.features.preprocess import Preprocessor
from mmtab.utils import cache as store_module
from mmtab.utils.cache import TAG, Store
from mmtab.utils.errors import ConfigError

Encode = Callable[[Path], dict[str, bytes]]
N_SLOW = int(os.environ.get("MMTAB_DAMAGES", "60"))


@pytest.fixture(scope="module")
def encode(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Encode:
    """Encode a table with a cache; all arrays that come of it."""
    folder = write_kway(tmp_path_factory.mktemp("damaged") / "toys", n=40)
    schema = Schema.read(folder)
    table = read_split(folder, schema, "train")
    preprocessor = Preprocessor.fit(table.batches(), schema, CategoryRules(min_count=1))
    torch.manual_seed(0)
    text = TextBackbone(TextSpec.load(str(backbone), max_length=24), n_tuned_layers=1)
    backbones = Backbones(text, ImageBackbone("test_efficientnet", 32, pretrained=False))

    def encoded(cache: Path) -> dict[str, bytes]:
        store_module._intact.clear()  # as another process
        found = encode_table(table, schema, preprocessor, backbones, FeatureCache(Store(cache)))
        assert found.text is not None and found.text.states is not None
        arrays = {name: value for name, value in vars(found).items() if isinstance(value, np.ndarray)}
        arrays |= {"ids": found.text.cells.values, "offsets": found.text.cells.offsets}
        arrays |= {"states": found.text.states.values, "starts": found.text.states.offsets}
        return {name: value.tobytes() for name, value in arrays.items()}

    return encoded


@pytest.fixture(scope="module")
def whole(encode: Encode, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    cache = tmp_path_factory.mktemp("whole") / "cache"
    return cache, encode(cache)


@pytest.mark.parametrize(
    "seed", [*range(12), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(12, N_SLOW))]
)
def test_a_damaged_cache_gives_the_same_numbers(
    seed: int, encode: Encode, whole: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(whole[0], cache)
    done = damage_at_random(cache, seed)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if TAG in done:  # the one line that names it, or what is only a comment
            with contextlib.suppress(ConfigError):
                assert encode(cache) == whole[1], done
            return
        assert encode(cache) == whole[1], done
    assert len([w for w in said if "is damaged" in str(w.message)]) == 1, (done, [str(w.message) for w in said])
