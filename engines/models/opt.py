"""OPT: learned positions, LayerNorm before (or in opt-350m after) each block, ReLU, tied output."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from engines.core.models import ModelSpec
from engines.models.attention import SelfAttention
from engines.models.builder import Builder
from engines.models.interfaces import AttentionBackend, Model
from engines.models.linear import Share
from engines.models.spec import ArchConfig

_POSITION_OFFSET = 2  # the first rows of OPT's position table are never used
_PREFIX = "decoder"


class OptLayer:
    """One decoder layer."""

    def __init__(self, builder: Builder, spec: ModelSpec, arch: ArchConfig, layer: int) -> None:
        prefix = f"{_PREFIX}.layers.{layer}"
        hidden, ffn = spec.hidden_size, Share.even(spec.ffn_size, builder.communicator)
        bias = spec.layout.ffn_bias
        self.pre_norm = arch.pre_norm
        self.attention = SelfAttention(
            builder, spec, layer, prefix=f"{prefix}.self_attn", output="out_proj"
        )
        self.attention_norm = builder.norm(
            f"{prefix}.self_attn_layer_norm", hidden, arch.norm_eps, bias=True
        )
        self.fc1 = builder.column([f"{prefix}.fc1"], [ffn], hidden, bias=bias, relu=True)
        self.fc2 = builder.row(f"{prefix}.fc2", hidden, ffn, bias=bias)
        self.mlp_norm = builder.norm(f"{prefix}.final_layer_norm", hidden, arch.norm_eps, bias=True)

    def __call__(
        self, x: Tensor, delta: Tensor | None, attention: AttentionBackend
    ) -> tuple[Tensor, Tensor | None]:
        """Take and return the residual stream [T, hidden] as a sum of two; overwrites `x`."""
        if self.pre_norm:
            delta = self.attention(self.attention_norm(x, delta), attention)
            return x, self._mlp(self.mlp_norm(x, delta))
        if delta is not None:
            x.add_(delta)
        x = self.attention_norm(x, self.attention(x, attention))
        return self.mlp_norm(x, self._mlp(x)), None

    def _mlp(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x))


class OptModel(Model):
    """An OPT decoder."""

    def __init__(self, builder: Builder, spec: ModelSpec, arch: ArchConfig) -> None:
        hidden, width = spec.hidden_size, spec.embedding_size or spec.hidden_size
        self.spec, self.arch = spec, arch
        self.dtype, self.device = builder.dtype, builder.device
        self._embedding = builder.embedding(
            f"{_PREFIX}.embed_tokens.weight", spec.vocab_size, width
        )
        table = builder.replicated(
            f"{_PREFIX}.embed_positions.weight", spec.max_positions + _POSITION_OFFSET, hidden
        )
        self._position_table = table[_POSITION_OFFSET:]
        projected = width != hidden
        self._project_in = (
            builder.dense(f"{_PREFIX}.project_in", hidden, width) if projected else None
        )
        self._layers = [OptLayer(builder, spec, arch, i) for i in range(spec.num_layers)]
        self.num_kv_heads = self._layers[0].attention.num_kv_heads
        self._final_norm = (
            builder.norm(f"{_PREFIX}.final_layer_norm", hidden, arch.norm_eps, bias=True)
            if spec.layout.final_norm
            else None
        )
        self._project_out = (
            builder.dense(f"{_PREFIX}.project_out", width, hidden) if projected else None
        )
        self._head = builder.head(self._embedding, tied=spec.layout.tied)
        self.weight_bytes = builder.weight_bytes

    def forward(self, token_ids: Tensor, positions: Tensor, attention: AttentionBackend) -> Tensor:
        """See `Model.forward`."""
        x = self._embedding(token_ids)
        if self._project_in is not None:
            x = self._project_in(x)
        delta: Tensor | None = functional.embedding(positions, self._position_table)
        for layer in self._layers:
            x, delta = layer(x, delta, attention)
        return x if delta is None else x.add_(delta)

    def logits(self, hidden: Tensor) -> Tensor:
        """See `Model.logits`."""
        if self._final_norm is not None:
            hidden = self._final_norm(hidden)
        if self._project_out is not None:
            hidden = self._project_out(hidden)
        return self._head(hidden)
