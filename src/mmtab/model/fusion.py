"""Tokens of a row to one vector."""

from __future__ import annotations

import contextlib

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmtab.features.batches import Tokens
from mmtab.model.dropout import TokenwiseDropout
from mmtab.utils.errors import ConfigError


class Block(nn.Module):
    """A pre-norm transformer block (Xiong et al., "On Layer Normalization in the Transformer Architecture", 2020)."""

    def __init__(self, d_model: int, n_heads: int, d_hidden: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.qkv, self.out = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, d_hidden), nn.GELU(), nn.Linear(d_hidden, d_model))
        self.dropout = TokenwiseDropout(dropout)

    def forward(
        self, x: Float[Tensor, "b t d"], mask: Bool[Tensor, "b 1 1 t"] | None, n_out: int | None = None
    ) -> Float[Tensor, "b t2 d"]:
        """``n_out``: compute the first ``n_out`` tokens only, with all tokens as keys and values."""
        (b, t, d), heads = x.shape, self.n_heads
        normed = self.norm_attention(x)
        if n_out is None:
            q, k, v = self.qkv(normed).view(b, t, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
        else:
            (w_q, w_kv), (b_q, b_kv) = self.qkv.weight.split([d, 2 * d]), self.qkv.bias.split([d, 2 * d])
            q = F.linear(normed[:, :n_out], w_q, b_q).view(b, n_out, heads, d // heads).transpose(1, 2)
            k, v = F.linear(normed, w_kv, b_kv).view(b, t, 2, heads, d // heads).permute(2, 0, 3, 1, 4)
            x, t = x[:, :n_out], n_out
        # On CPU the flash kernel's backward with a mask is several times slower than plain matrix products.
        with sdpa_kernel(SDPBackend.MATH) if x.device.type == "cpu" else contextlib.nullcontext():
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.dropout(self.out(attended.transpose(1, 2).reshape(b, t, d)))
        return x + self.dropout(self.mlp(self.norm_mlp(x)))


class FusionTransformer(nn.Module):
    """A learned CLS token reads all tokens of a row through ``n_layers`` blocks; its last state is the row vector."""

    def __init__(
        self, d_model: int = 128, n_layers: int = 2, n_heads: int = 4, d_hidden: int = 256, dropout: float = 0.1
    ) -> None:
        super().__init__()
        if d_model % n_heads:
            raise ConfigError(f"fusion.n_heads={n_heads}: d_model={d_model} cannot be shared evenly among them")
        self.cls = nn.Parameter(torch.randn(1, 1, d_model) * 0.02)
        self.blocks = nn.ModuleList(Block(d_model, n_heads, d_hidden, dropout) for _ in range(n_layers))
        self.norm = nn.LayerNorm(d_model)

    def forward(self, tokens: Tokens) -> Float[Tensor, "b d"]:
        x = torch.cat([self.cls.expand(tokens.x.shape[0], -1, -1), tokens.x], 1)
        mask = None  # without one attention is quicker; asking a GPU would make it wait, and a graph asks nothing
        if torch.compiler.is_exporting() or tokens.mask.device.type != "cpu" or not tokens.mask.all():
            mask = F.pad(tokens.mask, (1, 0), value=True)[:, None, None, :]
        for block in self.blocks[:-1]:
            x = block(x, mask)
        return self.norm(self.blocks[-1](x, mask, n_out=1)[:, 0])  # of the last block only the CLS token is asked for


class MeanPoolFusion(nn.Module):
    """The control: an MLP on the mean of the present tokens. Columns meet only in the mean."""

    def __init__(self, d_model: int = 128, d_hidden: int = 256, dropout: float = 0.1) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.LayerNorm(d_model),
            nn.Linear(d_model, d_hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(d_hidden, d_model),
        )

    def forward(self, tokens: Tokens) -> Float[Tensor, "b d"]:
        weight = tokens.mask[..., None].to(tokens.x.dtype)
        return self.mlp((tokens.x * weight).sum(1) / weight.sum(1).clamp(min=1))
