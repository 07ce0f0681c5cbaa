"""Exports with the whole model as a graph: that predicts what the run does, without what trains it."""

from __future__ import annotations

import copy
import functools
import json
import math
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow.parquet
import pytest
import torch
from commands import SCRIPTS
from onnx import helper

import mmtab
from mmtab.data.files import InMemory
from mmtab.runs.graph import preparation_of, write_torch
from mmtab.runs.inputs import records_to_match
from mmtab.runs.manifest import recording
from mmtab.runs.prepared import Preparation, open_graph
from mmtab.runs.session import open_run
from mmtab.utils.errors import ConfigError, RunError

Inputs = dict[str, np.ndarray]
EXAMPLE = Path(__file__).parents[2] / "notebooks" / "serve_an_export.py"
KINDS = ("kway", "numbers", "pairs")
HEAVY = ("pytorch_lightning", "hydra", "wandb", "optuna", "lightgbm")


def predictions(data: Path, folder: Path, image_root: Path) -> np.ndarray:
    """[n, k] probabilities of classes, [n, r] of matches, or [n] numbers, by the run."""
    run = mmtab.load_run(folder)
    pairs = run.schema.task == "matching"
    tables = {side: pyarrow.parquet.read_table(data / f"{side}.parquet") for side in ("left", "right") if pairs}
    rows = pyarrow.parquet.read_table(data / f"{'pairs_' if pairs else ''}test.parquet")
    if run.schema.task == "regression":
        return run.predict(rows, image_root=image_root)
    return run.predict_proba(rows, image_root=image_root, **tables).to_pandas().to_numpy()


def inputs_of(preparation: Preparation, data: Path, folder: Path, size: int, swapped: bool = False) -> list[Inputs]:
    """Of the rows or pairs of test, ``size`` at a time. ``swapped``: left is right."""
    if preparation.schema.of_rows:
        return [inputs for _, inputs in preparation.rows(data / "test.parquet", size)]
    sides = {side: data / f"{side}.parquet" for side in ("left", "right")}
    with tempfile.TemporaryDirectory() as scratch:
        records = records_to_match(preparation.schema, "error", Path(scratch), **sides)
    pictures = open_run(folder).encode(records.table).pictures
    pairs = preparation.pairs(data / "pairs_test.parquet", size, pictures=pictures, **sides)
    found = [inputs for _, inputs in pairs]
    return [x | {"left": x["right"], "right": x["left"]} for x in found] if swapped else found


def graph_of(folder: Path) -> Callable[[Inputs], np.ndarray]:
    if (folder / "model.onnx").exists():
        return open_graph(folder)
    module = torch.export.load(folder / "model.pt2").module()
    return lambda inputs: module({name: torch.from_numpy(x) for name, x in inputs.items()}).numpy()


def check(exported: Path, data: Path, folder: Path, sizes: tuple[int, ...]) -> None:
    """The graph predicts what the run does, in batches of these sizes, and pairs alike from either side."""
    expected, graph, preparation = predictions(data, folder, data), graph_of(exported), Preparation.load(exported)
    for size in sizes:
        batches = inputs_of(preparation, data, folder, size)
        output = np.concatenate([graph(inputs) for inputs in batches])
        assert output.shape == expected.shape and len(batches) == -(-len(output) // size)
        np.testing.assert_allclose(output, expected, atol=1e-4)
        if not preparation.schema.of_rows:
            swapped = inputs_of(preparation, data, folder, size, swapped=True)
            assert np.array_equal(output, np.concatenate([graph(inputs) for inputs in swapped]))
    facts = json.loads((exported / "graph.json").read_text())["inputs"]
    assert {name: str(x.dtype) for name, x in batches[0].items()} == {name: of["dtype"] for name, of in facts.items()}
    for name, x in batches[0].items():
        shape = facts[name]["shape"]
        assert len(shape) == x.ndim and all(isinstance(n, str) or n == m for n, m in zip(shape, x.shape, strict=True))


def float32(folder: Path, copy: Path) -> Path:
    """A copy of a run that computes in float32 on any machine, as graphs do."""
    shutil.copytree(folder, copy)
    config = (copy / "config.yaml").read_text()
    assert "precision: auto" in config
    (copy / "config.yaml").write_text(config.replace("precision: auto", "precision: fp32"))
    (copy / "manifest.json").unlink()
    return copy


@pytest.mark.slow
@pytest.mark.parametrize(("format", "fixture"), [("onnx", f"{kind}_run") for kind in KINDS] + [("torch", "pairs_run")])
def test_a_graph_predicts_what_the_run_does(
    fixture: str, format: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    data, folder = request.getfixturevalue(fixture)
    folder = float32(folder, tmp_path / "run")
    command = [sys.executable, SCRIPTS / "export.py", folder, "-o", tmp_path / "export", "--format", format]
    done = started(command)  # in a process of its own, for annotations are not checked of what is traced
    assert "written:" in done.stdout
    exported = tmp_path / "export"
    check(exported, data, folder, (1, 5))
    assert "## Graph" in (exported / "README.md").read_text()
    assert str(tmp_path.parent) not in (exported / "graph.json").read_text(), "folders of this machine"
    if fixture == "kway_run":
        nothing = pyarrow.parquet.read_table(data / "test.parquet").slice(0, 2)
        nothing = pyarrow.table({name: [None, None] for name in nothing.column_names if name not in ("id", "label")})
        (_, inputs), *_ = Preparation.load(exported).rows(InMemory("rows", nothing))
        expected = mmtab.load_run(folder).predict_proba(nothing).to_pandas().to_numpy()
        np.testing.assert_allclose(graph_of(exported)(inputs), expected, atol=1e-4)
    if (fixture, format) in (("kway_run", "onnx"), ("numbers_run", "onnx")):
        served(exported, data, folder)
    if fixture == "pairs_run":
        with pytest.raises(RunError, match="compares pictures"):
            next(Preparation.load(exported).pairs(data / "pairs_test.parquet"))


def started(command: list[Any]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return done


def served(exported: Path, data: Path, folder: Path) -> None:
    """The example prints what the run predicts, and loads nothing that trains."""
    code = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')\n"
    code += f"assert not [name for name in {HEAVY!r} if name in sys.modules]"
    command = [sys.executable, "-c", code, EXAMPLE, exported, data / "test.parquet"]
    done = started(command)
    said, run = [line.split("\t") for line in done.stdout.splitlines()], mmtab.load_run(folder)
    expected = run.predict(pyarrow.parquet.read_table(data / "test.parquet"), image_root=data).tolist()
    if run.schema.task == "kway":
        assert [name for _, name, _ in said] == expected
    else:
        assert [float(number) for _, number in said] == pytest.approx(expected, abs=1e-4)


class Views(torch.nn.Module):
    """As models of one column have them: parts of other tensors, some of which are empty."""

    def __init__(self) -> None:
        super().__init__()
        whole = torch.arange(6)
        self.register_buffer("empty", whole[1:1])
        self.register_buffer("part", whole[2:5])
        self.weight = torch.nn.Parameter(torch.arange(8.0)[4:7])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.part * self.weight + self.get_buffer("empty").sum()


def test_models_with_views_of_tensors_are_written(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    model, x = Views(), torch.tensor([1.0, 2.0, 3.0])
    write_torch(torch.export.export(model, (x,)), tmp_path / "model.pt2")
    assert not [warning for warning in recwarn if "complete tensor" in str(warning.message)]
    assert torch.equal(torch.export.load(tmp_path / "model.pt2").module()(x), model(x))


@pytest.fixture(scope="module")
def stranger(kway_run: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export whose model.onnx has the inputs and the output of the run's, and says of each class how many rows were
    before it in the batch. Tests change a copy."""
    folder = Path(shutil.copytree(kway_run[1], tmp_path_factory.mktemp("stranger") / "export"))
    with recording(folder, "graph.json", "model.*"):
        facts = preparation_of(open_run(folder)).facts()
        write_model(folder / "model.onnx", facts)
        (folder / "graph.json").write_text(json.dumps({"file": "model.onnx"} | facts))
    return folder


def write_model(path: Path, facts: dict[str, Any], opset: int = 18, weight: float = 1.0, **external: str) -> None:
    """``external``: where the file says that its weights lie."""
    kinds = {"output": facts["outputs"]["output"]}
    ends = {
        name: helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(np.dtype(fact["dtype"])), fact["shape"]
        )
        for name, fact in (facts["inputs"] | kinds).items()
    }
    output, k = ends.pop("output"), facts["outputs"]["output"]["shape"][-1]
    weights = helper.make_tensor("weights", onnx.TensorProto.FLOAT, [1, k], np.full(k, weight, np.float32))
    if external:
        weights.ClearField("float_data")
        weights.data_location = onnx.TensorProto.EXTERNAL
        for key, value in external.items():
            weights.external_data.add(key=key, value=value)
    nodes = [
        helper.make_node("Cast", ["row"], ["number"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["number", "axes"], ["column"]),
        helper.make_node("MatMul", ["column", "weights"], ["output"]),
    ]
    axes = helper.make_tensor("axes", onnx.TensorProto.INT64, [1], [1])
    graph = helper.make_graph(nodes, "graph", [*ends.values()], [output], [weights, axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    path.write_bytes(model.SerializeToString())


def example(monkeypatch: pytest.MonkeyPatch, *arguments: Path) -> str:
    """What it ends with where it does not end well, else nothing."""
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *map(str, arguments)])
    try:
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    except SystemExit as ended:
        return str(ended.code)
    return ""


def test_the_example_ends_in_one_line(
    kway_run: tuple[Path, Path],
    stranger: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    data, folder = kway_run
    rows = data / "test.parquet"
    assert example(monkeypatch, stranger, rows) == ""
    assert len(capfd.readouterr().out.splitlines()) == len(pyarrow.parquet.read_table(rows))
    assert "rows.csv" in example(monkeypatch, folder)
    copied = Path(shutil.copytree(stranger, tmp_path / "export"))
    (copied / "manifest.json").unlink()
    for change, said in (
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "cannot be used"),
        (lambda path: path.write_bytes(b""), "cannot be used"),
        (lambda path: path.write_bytes(b"no model" * 100), "cannot be used"),
        (lambda path: path.unlink(), "has no model.onnx. Fix: mmtab export RUN -o FOLDER --format onnx"),
    ):
        change(copied / "model.onnx")
        found = example(monkeypatch, copied, rows)
        assert found.startswith("error: ") and said in found and "\n" not in found
        assert capfd.readouterr() == ("", ""), "nothing of onnxruntime either"


PIECES = ["model.onnx", "graph.json", "schema.yaml", "fitted.json", "text_backbone/tokenizer.json"]


def load(folder: Path) -> None:
    Preparation.load(folder)
    open_graph(folder)


@pytest.mark.parametrize("name", PIECES)
def test_a_piece_of_an_export_that_was_changed_or_is_a_link_is_named(stranger: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(stranger, tmp_path / "export"))
    load(folder)
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(content[:-2] + b" " + content[-2:])
    with pytest.raises(RunError, match=rf"{path.name} has changed since it was written.*Fix: restore it"):
        load(folder)
    path.rename(tmp_path / path.name)
    with pytest.raises(RunError, match=rf"{path.name} is missing|has no {path.name}"):
        load(folder)
    (tmp_path / path.name).write_bytes(content)
    path.symlink_to(tmp_path / path.name)
    with pytest.raises(RunError, match=rf"{path.name} is a link to .*outside the run. Fix: replace the link"):
        load(folder)


def test_a_manifest_that_is_no_file_is_damaged(stranger: Path, tmp_path: Path) -> None:
    """Only one that is not there leaves all unchecked."""
    folder = Path(shutil.copytree(stranger, tmp_path / "export"))
    (folder / "manifest.json").unlink()
    load(folder)
    (folder / "manifest.json").mkdir()
    with pytest.raises(RunError, match=r"manifest\.json is damaged"):
        load(folder)
    (folder / "manifest.json").rmdir()
    (folder / "manifest.json").symlink_to("manifest.json")
    with pytest.raises(RunError, match=r"manifest\.json is damaged"):
        load(folder)


SWAPPED: list[tuple[str, Any, str]] = [
    ("outputs.output.of", ["kind 1", "kind 0", "kind 2"], r"outputs\.output\.of: expected \['kind 0', .*found"),
    ("outputs.output.shape", ["rows", 4], r"outputs\.output\.shape: expected \['rows', 3\], found \['rows', 4\]"),
    ("outputs.other", {"dtype": "int64", "shape": []}, r"outputs\.other: expected no entry"),
    ("inputs", {}, r"inputs\.\w+: expected .*, found no entry"),
    ("inputs.row.dtype", "int32", r"inputs\.row\.dtype: expected int64, found int32"),
    ("inputs.similarity", {"dtype": "float32", "shape": ["pairs", 3]}, r"inputs\.similarity: expected no entry"),
    ("image.size", 64, r"inputs\.image_pixels\.shape: expected .*64, 64\], found .*32, 32"),
    ("image", None, r"inputs\.\w+: |does not fit"),
    ("text", None, r"inputs\.\w+: |does not fit"),
]


@pytest.mark.parametrize(("where", "value", "said"), SWAPPED)
def test_a_graph_of_another_export_is_named(stranger: Path, tmp_path: Path, where: str, value: Any, said: str) -> None:
    """Also in a folder without a manifest."""
    folder = changed(stranger, tmp_path, where, value)
    with pytest.raises(RunError, match=rf"graph\.json.*{said}") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def changed(stranger: Path, tmp_path: Path, where: str, value: Any) -> Path:
    """A copy without a manifest, in whose graph.json an entry is another."""
    folder = Path(shutil.copytree(stranger, tmp_path / "export"))
    (folder / "manifest.json").unlink()
    facts = json.loads((folder / "graph.json").read_text())
    *outer, last = where.split(".")
    functools.reduce(dict.__getitem__, outer, facts)[last] = value
    (folder / "graph.json").write_text(json.dumps(facts))
    return folder


def test_a_model_that_is_another_or_reads_other_files_is_refused(stranger: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(stranger, tmp_path / "export"))
    (folder / "manifest.json").unlink()
    facts = json.loads((folder / "graph.json").read_text())
    weights = np.ones(3, np.float32).tobytes()
    for path in (tmp_path / "secret", folder / "inside.data"):
        path.write_bytes(weights)
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "below").symlink_to(tmp_path)
    write_model(folder / "model.onnx", facts, location="inside.data")
    load(folder)
    for place in ("../secret", str(tmp_path / "secret"), "link", "below/secret", "absent", "*/_ORT_MEM_ADDR_/*"):
        write_model(folder / "model.onnx", facts, location=place)
        with pytest.raises(RunError, match=r"model\.onnx cannot be used \(.*Fix: export the run again") as caught:
            open_graph(folder)
        assert "\n" not in str(caught.value)
    inputs: Inputs = {name: np.zeros([2] * len(of["shape"]), of["dtype"]) for name, of in facts["inputs"].items()}
    write_model(folder / "model.onnx", facts, weight=math.nan)
    with pytest.raises(RunError, match=r"model\.onnx cannot be used \(.*invalid dimensions.*Fix: "):
        open_graph(folder)(inputs)
    shapes = {name: [2 if isinstance(n, str) else n for n in of["shape"]] for name, of in facts["inputs"].items()}
    inputs = {name: np.zeros(shapes[name], x.dtype) for name, x in inputs.items()}
    with pytest.raises(RunError, match=r"model\.onnx: expected 2 predictions, all of them numbers, found others"):
        open_graph(folder)(inputs)
    write_model(folder / "model.onnx", facts, opset=999)
    with pytest.raises(RunError, match=r"model\.onnx cannot be used \("):
        open_graph(folder)
    others: list[tuple[str, str, Any]] = [
        ("outputs", "output", {"dtype": "float32", "shape": ["rows", 4]}),
        ("inputs", "row", {"dtype": "int64", "shape": [5]}),
        ("inputs", "more", {"dtype": "float32", "shape": ["rows"]}),
    ]
    for part, name, fact in others:
        other = copy.deepcopy(facts)
        other[part][name] = fact
        write_model(folder / "model.onnx", other)
        with pytest.raises(RunError, match=rf"model\.onnx, {part}\.{name}.*: expected .*, found "):
            open_graph(folder)


MISFITS: list[tuple[str, Any]] = [
    ("file", "../model.pt2"),
    ("inputs", ["row"]),
    ("inputs.row.shape", [-1]),
    ("inputs.row.shape", [math.inf]),
    *(("text.max_length", value) for value in (-1, 10**9, math.nan, "auto")),
    ("text.layout", "zip"),
    ("text.column_prefix", 5),
    ("text.also", "numeric"),
    *(("image.size", value) for value in (0, 10**9, "32", 32.0)),
    *(("image.crop_pct", value) for value in (0, math.nan, 1e-9, 5)),
    ("image.fit", "zip"),
    ("image.interpolation", "__class__"),
    ("bad_cells", "whatever"),
    ("bad_cells", ["error"]),
]


@pytest.mark.parametrize(("where", "value"), MISFITS)
def test_facts_of_a_graph_that_do_not_fit_are_named(stranger: Path, tmp_path: Path, where: str, value: Any) -> None:
    folder = changed(stranger, tmp_path, where, value)
    with pytest.raises(RunError, match=rf"graph\.json, {where}.*: expected .*, found ") as caught:
        Preparation.load(folder)
    assert "\n" not in str(caught.value)


def test_what_is_no_format_or_path_is_refused(kway_run: tuple[Path, Path], tmp_path: Path) -> None:
    run = mmtab.load_run(kway_run[1])
    with pytest.raises(ConfigError, match="format=zip: expected run, onnx or torch"):
        run.export(tmp_path / "export", format="zip")
    output: Any = 3
    with pytest.raises(ConfigError, match="output=3: expected a path"):
        run.export(output)
    with pytest.raises(RunError, match=r"not a finished run: it has no graph\.json"):
        Preparation.load(kway_run[1])
