"""LLaMA: RMSNorm before each block, rotary positions, grouped KV heads, gated MLP."""

from __future__ import annotations

from torch import Tensor

from engines.core.models import ModelSpec
from engines.models.attention import SelfAttention
from engines.models.builder import Builder
from engines.models.interfaces import AttentionBackend, Model
from engines.models.linear import Share
from engines.models.rotary import Rotary, Rotation, rotary_frequencies
from engines.models.spec import ArchConfig


class LlamaLayer:
    """One decoder layer."""

    def __init__(self, builder: Builder, spec: ModelSpec, arch: ArchConfig, layer: int) -> None:
        prefix = f"layers.{layer}"
        hidden, ffn = spec.hidden_size, Share.even(spec.ffn_size, builder.communicator)
        self.attention = SelfAttention(
            builder, spec, layer, prefix=f"{prefix}.self_attn", output="o_proj"
        )
        self.gate_up = builder.column(
            [f"{prefix}.mlp.gate_proj", f"{prefix}.mlp.up_proj"],
            [ffn, ffn],
            hidden,
            bias=spec.layout.ffn_bias,
        )
        self._kernels = builder.kernels(ffn.length)
        self.down = builder.row(f"{prefix}.mlp.down_proj", hidden, ffn, bias=spec.layout.ffn_bias)
        self.attention_norm, self.mlp_norm = (
            builder.norm(f"{prefix}.{name}_layernorm", hidden, arch.norm_eps, bias=False)
            for name in ("input", "post_attention")
        )

    def __call__(
        self, x: Tensor, delta: Tensor | None, attention: AttentionBackend, rotation: Rotation
    ) -> Tensor:
        """Add `delta` to the residual stream `x` [T, hidden]; returns what is to be added next."""
        delta = self.attention(self.attention_norm(x, delta), attention, rotation)
        fused = self.gate_up(self.mlp_norm(x, delta))
        gated = fused.new_empty(fused.shape[0], fused.shape[1] // 2)
        self._kernels.gate(gated, fused)
        return self.down(gated)


class LlamaModel(Model):
    """A LLaMA decoder."""

    def __init__(self, builder: Builder, spec: ModelSpec, arch: ArchConfig) -> None:
        self.spec, self.arch = spec, arch
        self.dtype, self.device = builder.dtype, builder.device
        self._embedding = builder.embedding(
            "embed_tokens.weight", spec.vocab_size, spec.hidden_size
        )
        frequencies = rotary_frequencies(
            spec.head_size, arch.rope_theta, arch.rope_scaling, builder.device
        )
        kernels = builder.kernels(spec.head_size // 2)
        self._rotary = Rotary(frequencies, spec.max_positions, builder.dtype, kernels)
        self._layers = [LlamaLayer(builder, spec, arch, i) for i in range(spec.num_layers)]
        self.num_kv_heads = self._layers[0].attention.num_kv_heads
        self._final_norm = builder.norm("norm", spec.hidden_size, arch.norm_eps, bias=False)
        self._head = builder.head(self._embedding, tied=spec.layout.tied)
        self.weight_bytes = builder.weight_bytes

    def forward(self, token_ids: Tensor, positions: Tensor, attention: AttentionBackend) -> Tensor:
        """See `Model.forward`."""
        x = self._embedding(token_ids)
        rotation = self._rotary.at(positions)
        delta = None
        for layer in self._layers:
            delta = layer(x, delta, attention, rotation)
        return x if delta is None else x.add_(delta)

    def logits(self, hidden: Tensor) -> Tensor:
        """See `Model.logits`."""
        return self._head(self._final_norm(hidden))
