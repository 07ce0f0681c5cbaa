"""Labels of people: what is read, what they change, and which pairs they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit
from toy_data import write_pairs, write_table

from mmtab.data.pairs import Records, read_records
from mmtab.data.schema import Schema
from mmtab.data.splits import components as connected
from mmtab.matching.clustering import METHODS, unique
from mmtab.matching.labels import learn, read_labels, worth_labelling
from mmtab.utils.errors import RunError


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Schema, Records]:
    folder = write_pairs(tmp_path_factory.mktemp("labels") / "toys", n=10, images=False)
    schema = Schema.read(folder)
    return schema, read_records(folder, schema)


def file_of(folder: Path, *lines: str, head: str = "left_id,right_id,label") -> Path:
    path = folder / "labels.csv"
    path.write_text("\n".join([head, *lines]) + "\n")
    return path


def test_labels_are_read(tmp_path: Path, toys: tuple[Schema, Records]) -> None:
    labels = read_labels(file_of(tmp_path, "l1,r1,1", "l1,r2,0", "l3,r3,1"), *toys)
    assert labels.left.tolist() == [1, 1, 3] and labels.right.tolist() == [11, 12, 13]
    known = labels.known(np.array([3, 1, 0, 1]), np.array([13, 12, 10, 11]), 20, 1)
    assert known[:, 0].tolist() == [1, 0, -1, 1]
    assert labels.one_partner(0)
    assert not read_labels(file_of(tmp_path, "l1,r1,1", "l1,r2,1"), *toys).one_partner(0)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.csv", "left_id;right_id;label\nl1;r1;1\nl1;r2;0\n".encode("utf-8-sig")),  # as a spreadsheet saves it
        ("labels.txt", "left_id\tright_id\tlabel\nl1\tr1\tTRUE\nl1\tr2\tFALSE\n".encode("utf-16")),
        ("labels.jsonl", b'{"left_id":"l1","right_id":"r1","label":1.0}\n{"left_id":"l1","right_id":"r2","label":0}\n'),
    ],
)
def test_labels_may_be_any_table(name: str, content: bytes, tmp_path: Path, toys: tuple[Schema, Records]) -> None:
    (tmp_path / name).write_bytes(content)
    labels = read_labels(tmp_path / name, *toys)
    assert (labels.left.tolist(), labels.right.tolist(), labels.label.tolist()) == ([1, 1], [11, 12], [1, 0])


@pytest.mark.parametrize("relation", [b"\xff", ["label"], None])
def test_cells_that_name_no_relation_are_one_line(
    relation: object, tmp_path: Path, toys: tuple[Schema, Records]
) -> None:
    cells = {"left_id": ["l1"], "right_id": ["r1"], "label": [1], "relation": [relation]}
    path = write_table(tmp_path / "labels.parquet", cells)
    with pytest.raises(RunError, match=r"labels.parquet: .*row 1, column relation: ") as error:
        read_labels(path, *toys)
    assert "\n" not in str(error.value)


def test_labels_of_several_relations_name_theirs(tmp_path: Path, toys: tuple[Schema, Records]) -> None:
    schema = replace(toys[0], relations={"same": (), "alike": ("size",)})
    head = "left_id,right_id,label,relation"
    labels = read_labels(file_of(tmp_path, "l1,r1,0,same", "l1,r1,1,alike", head=head), schema, toys[1])
    assert labels.known(np.array([1]), np.array([11]), 20, 2).tolist() == [[0, 1]]
    with pytest.raises(RunError, match=r"labels.csv: .*column relation: the file lacks this column"):
        read_labels(file_of(tmp_path, "l1,r1,1"), schema, toys[1])
    with pytest.raises(RunError, match=r"labels.csv: .*row 2, column relation.*'same', 'alike'.*found twin"):
        read_labels(file_of(tmp_path, "l1,r1,1,same", "l1,r1,1,twin", head=head), schema, toys[1])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["l1,r1,1", "l1,nobody,0"], r"labels.csv: .*row 2, column right_id: a pair names an unknown id.*found nobody"),
        (["l1,r1,2"], r"labels.csv: .*row 1, column label: not a pair label; expected 0 or 1; found 2"),
        (["l1,r1,1", "l2,r2,0", "l1,r1,0"], r"labels.csv, row 3: label 0 for l1 and r1, which rows .* join: 1\."),
        (["l1,r1,1", "l2,r1,1", "l2,r2,1", "l1,r2,0"], r"labels.csv, row 4: label 0 .*join: 1, 2, 3\."),
    ],
)
def test_mistakes_name_file_and_row(
    lines: Sequence[str], message: str, tmp_path: Path, toys: tuple[Schema, Records]
) -> None:
    with pytest.raises(RunError, match=message) as error:
        read_labels(file_of(tmp_path, *lines), *toys)
    assert "\n" not in str(error.value)


graphs = st.integers(4, 9).flatmap(
    lambda n: st.tuples(
        st.just(n),
        st.lists(
            st.tuples(st.integers(0, n - 1), st.integers(0, n - 1), st.floats(0, 1), st.sampled_from([-1, -1, 0, 1])),
            max_size=25,
            unique_by=lambda pair: frozenset(pair[:2]),
        ),
    )
)


@given(graphs, st.sampled_from(sorted(METHODS)), st.floats(0.05, 0.95))
def test_clusters_take_labels_as_given(graph: tuple[int, Any], method: str, threshold: float) -> None:
    """Matches share a cluster and non-matches do not, whatever the scores, unless labels contradict each other."""
    n, pairs = graph
    pairs = [pair for pair in pairs if pair[0] != pair[1]]
    left, right, p, known = (np.array([pair[i] for pair in pairs]) for i in range(4))
    left, right, known = left.astype(int), right.astype(int), known.astype(int)
    whole = connected(n, left[known == 1], right[known == 1])
    known[(known == 0) & (whole[left] == whole[right])] = -1
    labels = METHODS[method](n, left, right, p.astype(float), threshold, known=known)
    together = labels[left] == labels[right]
    assert together[known == 1].all() and not together[known == 0].any()


def test_unique_takes_labels_as_given() -> None:
    left, right, p = np.array([0, 0, 1, 2]), np.array([3, 4, 4, 5]), np.array([0.9, 0.2, 0.8, 0.9])
    assert unique(6, 3, left, right, p, 0.5).tolist() == [0, 1, 2, 0, 1, 2]
    known = np.array([-1, 1, -1, 0])
    assert unique(6, 3, left, right, p, 0.5, known).tolist() == [0, 1, 2, 3, 0, 4]


def candidates(n: int, temperature: float, bias: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """What a model says of pairs, most of them no matches, and the truth: of its log-odds z, z / temperature + bias is
    right."""
    rng = np.random.default_rng(seed)
    z = np.where(rng.random(n) < 0.9, rng.normal(-7, 2, n), rng.normal(0, 3, n))
    return expit(z), (rng.random(n) < expit(z / temperature + bias)).astype(int)


@pytest.mark.parametrize("seed", range(3))
def test_labels_mend_calibration_and_threshold(seed: int) -> None:
    p, truth = candidates(20_000, 2.0, 2.0, seed)
    known = np.full(len(p), -1)
    pairs = np.arange(len(p)), np.arange(len(p), 2 * len(p))
    margin = logit(p) - logit(0.9)
    chosen = worth_labelling(pairs, margin, np.arange(2 * len(p)), 200, np.random.default_rng(seed))
    known[chosen] = truth[chosen]
    learned = learn(p, known)
    assert not learned.left_out and 1.3 < learned.temperature < 2.8 and 1.2 < learned.bias < 2.8
    assert abs(learned.probability.mean() - truth.mean()) < 0.6 * abs(p.mean() - truth.mean())


def test_too_few_labels_change_nothing() -> None:
    p, truth = candidates(1_000, 2.0, 2.0, 0)
    for n_matches, n_others, reason in ((4, 40, "fewer than 5"), (7, 7, "fewer than 20"), (0, 0, "0 labelled rows")):
        known = np.full(len(p), -1)
        known[np.flatnonzero(truth == 1)[:n_matches]], known[np.flatnonzero(truth == 0)[:n_others]] = 1, 0
        learned = learn(p, known)
        assert reason in learned.left_out and (learned.probability == p).all()


def test_labels_that_say_the_opposite_are_told() -> None:
    p, _ = candidates(1_000, 2.0, 2.0, 0)
    known = np.full(len(p), -1)
    sure = np.append(np.argsort(p)[-30:], np.argsort(p)[:30])
    known[sure] = (p[sure] < 0.5).astype(int)
    learned = learn(p, known)
    assert learned.contradicted == "the labels contradict the model: 60 of 60 say the opposite of its score"
    known[sure] = (p[sure] >= 0.5).astype(int)
    assert not learn(p, known).contradicted


def test_pairs_to_label_are_spread_over_scores_and_clusters() -> None:
    rng = np.random.default_rng(0)
    n = 5_000
    margin = np.append(rng.normal(-9, 1, n), rng.normal(1, 3, 60))
    left, right = np.arange(n + 60), np.arange(n + 60) + n + 60
    clusters = np.arange(2 * (n + 60))
    clusters[left[n : n + 30]] = 0  # near-copies of each other
    margin[n + 40] = np.nan  # has a label
    chosen = worth_labelling((left, right), margin, clusters, 40, rng)
    assert len(set(chosen)) == len(chosen) == 40 and n + 40 not in chosen
    assert sum(n <= place < n + 30 for place in chosen) <= 1
    assert (margin[chosen] > -4).sum() >= 15 and (margin[chosen] < -4).sum() > 3, "60 of 5,060 are near"
    first = np.floor(margin[chosen[:10]])
    assert len(set(first)) == 10, "each of the first ten is of another bin"
    assert len(worth_labelling((left, right), np.full(n + 60, np.nan), clusters, 40, rng)) == 0
