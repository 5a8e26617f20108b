"""The self-attention block that OPT and LLaMA share: fused QKV, attention, output projection."""

from __future__ import annotations

from torch import Tensor

from engines.core.models import ModelSpec
from engines.models.builder import Builder
from engines.models.interfaces import AttentionBackend
from engines.models.linear import Share
from engines.models.rotary import Rotation


class SelfAttention:
    """Attention of one layer over this rank's heads."""

    def __init__(
        self, builder: Builder, spec: ModelSpec, layer: int, *, prefix: str, output: str
    ) -> None:
        heads = Share.even(spec.num_heads, builder.communicator)
        kv_heads = Share.kv_heads(spec.kv_heads, builder.communicator)
        self.layer, self.head_size = layer, spec.head_size
        self.num_heads, self.num_kv_heads = heads.length, kv_heads.length
        self._split = [heads.length, kv_heads.length, kv_heads.length]
        query, kv = heads.times(spec.head_size), kv_heads.times(spec.head_size)
        self.qkv = builder.column(
            [f"{prefix}.{name}" for name in ("q_proj", "k_proj", "v_proj")],
            [query, kv, kv],
            spec.hidden_size,
            bias=spec.layout.qkv_bias,
        )
        self.out = builder.row(
            f"{prefix}.{output}", spec.hidden_size, query, bias=spec.layout.output_bias
        )

    def __call__(
        self, x: Tensor, attention: AttentionBackend, rotation: Rotation | None = None
    ) -> Tensor:
        """Return [T, hidden] for x [T, hidden]."""
        fused = self.qkv(x).view(x.shape[0], -1, self.head_size)
        rotated = self.num_heads + self.num_kv_heads
        if rotation is not None:
            rotation.apply_(fused[:, :rotated])
        q, k, v = fused.split_with_sizes(self._split, dim=1)
        return self.out(attention.attend(self.layer, q, k, v).flatten(1))
