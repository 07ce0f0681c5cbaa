"""N-grams of text cells, against scikit-learn's tf-idf where both keep all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from toy_data import write_kway, write_table

from mmtab.data.schema import Schema
from mmtab.data.table import read_split
from mmtab.features.lexical import Lexicon
from mmtab.utils.cache import Store

CELLS = ["red lamp", "a red chair", "Blue lamp, blue lamp", None, "ünïcode — red", "", "lamp"]


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    folder = write_kway(tmp_path_factory.mktemp("data") / "toys", images=False)
    path = folder / "train.parquet"
    table = pa.parquet.read_table(path).slice(0, len(CELLS))
    write_table(path, table.set_column(table.column_names.index("title"), "title", pa.array(CELLS, pa.string())))
    return read_split(folder, Schema.read(folder), "train"), Schema.read(folder)


def dense(lexicon: Lexicon, table, store: Store) -> np.ndarray:  # type: ignore[no-untyped-def]
    batch = lexicon(table, store).rows(np.arange(len(table)))
    out = np.zeros((len(table), lexicon.n_ngrams), np.float32)
    out[batch.row.numpy(), batch.id.numpy()] = batch.value.numpy()
    return out


def test_weights_are_those_of_scikit_learn(read, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from sklearn.feature_extraction.text import TfidfVectorizer

    table, schema = read
    store = Store(tmp_path)
    lexicon = Lexicon.fit(table, schema, store, max_ngrams=1_000)
    ours, blocks = dense(lexicon, table, store), []
    for options in ({"ngram_range": (1, 2)}, {"analyzer": "char_wb", "ngram_range": (2, 4)}):
        vectorizer = TfidfVectorizer(min_df=2, sublinear_tf=True, dtype=np.float32, **options)
        blocks.append(vectorizer.fit_transform([cell or "" for cell in CELLS]).toarray())
    theirs = np.concatenate(blocks, 1)
    assert ours.shape == theirs.shape
    assert np.allclose(ours @ ours.T, theirs @ theirs.T, atol=5e-3), "the same up to the order of n-grams"


def test_the_commonest_are_kept_and_what_is_stored_serves_every_lexicon(read, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    table, schema = read
    store = Store(tmp_path)
    small, large = (Lexicon.fit(table, schema, store, max_ngrams=n) for n in (2, 50))
    assert small.n_ngrams == 4 < large.n_ngrams
    assert set(small.buckets_[0]) <= set(large.buckets_[0])
    assert len(list((tmp_path / "ngrams").iterdir())) == 1
    assert Lexicon(**{name: getattr(small, name) for name in ("columns", "buckets_", "idf_")}) == small


def test_a_row_alone_has_the_weights_that_it_has_among_others(read, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    table, schema = read
    store = Store(tmp_path)
    lexicon = Lexicon.fit(table, schema, store)
    rows = lexicon(table, store)
    together = rows.rows(np.arange(len(CELLS)))
    for row in (0, 2, 3):
        alone = rows.rows(np.array([row]))
        assert alone.id.tolist() == together.id[together.row == row].tolist()
    assert len(rows.rows(np.array([3])).id) == 0, "a missing cell has none"
