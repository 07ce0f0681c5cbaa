"""A run's whole model as one graph, of ``torch.export`` or ONNX: prepared features in, final predictions out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmtab.config.types import Hardware
from mmtab.features.backbones import Backbones, ImageBackbone, TextBackbone
from mmtab.features.batches import PairBatch, RowBatch, TensorTable
from mmtab.features.cache import half
from mmtab.runs.prepared import FREE, ONNX, OUTPUT, Preparation, graph_inputs, shape_letters
from mmtab.runs.session import Session, open_run
from mmtab.utils.errors import RunError, first_line
from mmtab.utils.optional import require

FILES = {"onnx": ONNX, "torch": "model.pt2"}
MOST_BYTES = 1_900_000_000  # of weights in one file of ONNX, which holds 2 GB


class Graph(nn.Module):
    """A run's model from prepared features to what its task predicts.

    session   the open run
    template  a batch that has the parts which batches of the run have
    """

    def __init__(self, session: Session, template: RowBatch | PairBatch) -> None:
        super().__init__()
        self.model: Any = session.model
        self.task, self.template = session.task, template
        of, store = session.backbones, session.config.store_frozen
        compares = preparation_of(session).compares  # pictures, of which features are then stored anyway
        # A tuple: the model has them already
        self._networks = of.text if store else None, of.image if store or compares else None
        self.eval().requires_grad_(False)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        template = self.template
        table = self._with_features(replace(template.table.with_tensors(inputs), n_rows=inputs["row"].shape[0]))
        if isinstance(template, RowBatch):
            return self.task.output(self.model(RowBatch(table, inputs["row"], inputs["row"])))
        cross = None if template.cross is None else template.cross.with_tensors(inputs, "cross_")
        left, right = inputs["left"], inputs["right"]
        labels = template.label.expand(left.shape[0], -1)
        batch = PairBatch(table, left, right, left, labels, inputs.get("similarity"), cross)
        return self.task.output(self.model(batch))

    def _with_features(self, table: TensorTable) -> TensorTable:
        """What frozen networks make of text and pictures is rounded as the cache stores it."""
        (text, image), batch = self._networks, table.text
        if isinstance(text, TextBackbone) and batch is not None and text.frozen:
            features, present = text(batch, table.n_rows, self.model.tokenizer.encoders["text"].n_columns)
            table = replace(table, text=replace(batch, features=half(features), present=present))
        elif isinstance(text, TextBackbone) and batch is not None and text.n_frozen_layers:
            table = replace(table, text=replace(batch, states=half(text.lower(batch))))
        if isinstance(image, ImageBackbone) and table.image is not None and image.frozen:
            table = replace(table, image=replace(table.image, features=half(image(table.image)), pixels=None))
        return table


def preparation_of(session: Session) -> Preparation:
    """What makes the inputs of a run's graph."""
    of, config = session.backbones, session.config
    specs = Backbones(of.text_spec, of.image_spec, of.cross_spec)
    compares = session.fitted.similarity is not None and bool(config.pair_head.compare)
    return Preparation(session.schema, session.fitted, specs, config.dataset.bad_cells, compares)


def write_graph(folder: Path, output: Path, format: str) -> dict[str, Any]:
    """Write the graph of a run, in float32, into a folder. Returns what GRAPH holds: names, types and shapes of its
    inputs and of its output, and how text and pictures become inputs. Raises ConfigError where a library is missing,
    RunError for a model with a part that cannot be traced."""
    if format == "onnx":
        require("onnxscript", extra="onnx")
    session = open_run(folder, Hardware("cpu"))
    preparation = preparation_of(session)
    template = preparation.blank()
    try:
        program = exported(session, template)
        write = write_onnx if format == "onnx" else write_torch
        write(program, output / FILES[format])
    except Exception as error:  # of a part of others anything
        raise RunError(f"{folder}: this model cannot be traced as a graph ({first_line(error)})") from error
    return {"file": FILES[format]} | preparation.facts()


def exported(session: Session, template: RowBatch | PairBatch) -> torch.export.ExportedProgram:
    """The graph of a run; ``template`` as ``Graph`` has it."""
    sizes, example, free = dict(zip(FREE, range(3, 9), strict=True)), {}, {}  # each its own, so that none is fixed
    for name, x in graph_inputs(template).items():
        letters = shape_letters(template, name)
        shape = [sizes.get(letter, n) for letter, n in zip(letters, x.shape, strict=True)]
        example[name] = torch.zeros(shape, dtype=torch.from_numpy(x).dtype)
        free[name] = {i: torch.export.Dim.DYNAMIC for i, letter in enumerate(letters) if letter in FREE}
    with torch.no_grad():
        return torch.export.export(Graph(session, template), (example,), dynamic_shapes=(free,))


# --- files -----------------------------------------------------------------------------------------------------------


def _searchsorted(ascending: Tensor, x: Tensor, **_: Any) -> Tensor:
    return (ascending < x[..., None]).sum(-1)


def _cdist(a: Tensor, b: Tensor, p: float = 2.0, *_: Any) -> Tensor:
    return torch.linalg.vector_norm(a[:, None] - b, p, -1)


def _embedding_bag(
    weight: Tensor, ids: Tensor, starts: Tensor, scale: bool, mode: int, sparse: bool, weights: Tensor | None, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows = weight.index_select(0, ids)
    rows = rows if weights is None else rows * weights[:, None]
    bag = (torch.arange(ids.shape[0])[:, None] >= starts).sum(1) - 1
    sums = torch.zeros(starts.shape[0], rows.shape[1]).scatter_add(0, bag[:, None].expand(rows.shape), rows)
    return sums, ids, ids, ids


def write_torch(program: torch.export.ExportedProgram, path: Path) -> None:
    """Views of other tensors become tensors of their own: torch cannot write an empty one, and warns of others."""
    for tensors in (program.state_dict, program.constants):
        for name, x in tensors.items():
            if isinstance(x, Tensor) and x.untyped_storage().nbytes() != x.nbytes:
                own = x.detach().clone()
                tensors[name] = nn.Parameter(own, x.requires_grad) if isinstance(x, nn.Parameter) else own
    torch.export.save(program, path)


# Of what the model calls, that for which ONNX has no operator, or a slow loop.
REPLACED: dict[Any, Any] = {
    torch.ops.aten.searchsorted.Tensor: _searchsorted,
    torch.ops.aten.cdist.default: _cdist,
    torch.ops.aten.embedding_bag.padding_idx: _embedding_bag,
}


def write_onnx(program: torch.export.ExportedProgram, path: Path) -> None:
    """Weights of more than MOST_BYTES go into a file beside it."""
    names = [name.removeprefix("inputs_") for name in program.graph_signature.user_inputs if isinstance(name, str)]
    n_bytes = sum(x.numel() * x.element_size() for x in program.state_dict.values())
    torch.onnx.export(
        program.run_decompositions(REPLACED),
        f=path,
        dynamo=True,
        external_data=n_bytes > MOST_BYTES,
        verbose=False,
        input_names=names,
        output_names=[OUTPUT],
    )
