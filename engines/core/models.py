"""Shapes of models: everything that memory and the price of a step depend on."""

from __future__ import annotations

from dataclasses import dataclass

from engines.core.errors import unknown_name


@dataclass(frozen=True)
class ModelSpec:
    """The shape of a decoder-only transformer."""

    name: str
    family: str  # "opt" or "llama"
    num_layers: int
    num_heads: int
    hidden_size: int
    ffn_size: int
    vocab_size: int
    max_positions: int = 2048
    num_kv_heads: int | None = None  # None: as many as num_heads
    embedding_size: int | None = None  # None: hidden_size (opt-350m projects from 512)
    dtype_bytes: int = 2

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def kv_heads(self) -> int:
        """Number of key/value heads."""
        return self.num_kv_heads or self.num_heads

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of KV cache per token over all layers (800 KiB for OPT-13B, section 3)."""
        return 2 * self.num_layers * self.kv_heads * self.head_size * self.dtype_bytes

    @property
    def layer_products(self) -> tuple[tuple[int, int], ...]:
        """Outputs and inputs of a layer's matrix products: QKV, attention's output, FFN up, down.

        The two up matrices of a gated FFN count as one product.
        """
        hidden, ffn = self.hidden_size, self.ffn_size
        up = 2 * ffn if self.family == "llama" else ffn
        qkv = hidden + 2 * self.kv_heads * self.head_size
        return ((qkv, hidden), (hidden, hidden), (up, hidden), (hidden, ffn))

    @property
    def num_parameters(self) -> int:
        """Number of parameters; the output layer of OPT is tied to its embedding."""
        h, f = self.hidden_size, self.ffn_size
        embedding = self.embedding_size or h
        if self.family == "opt":
            layer = 4 * (h * h + h) + 2 * h * f + f + h + 4 * h
            edges = self.vocab_size * embedding + (self.max_positions + 2) * h
            edges += 2 * embedding * h if embedding != h else 2 * h
        else:
            kv = self.kv_heads * self.head_size
            layer = 2 * h * h + 2 * h * kv + 3 * h * f + 2 * h
            edges = 2 * self.vocab_size * h + h
        return self.num_layers * layer + edges


def _opt(
    name: str, layers: int, heads: int, hidden: int, embedding: int | None = None
) -> ModelSpec:
    return ModelSpec(
        f"opt-{name}", "opt", layers, heads, hidden, 4 * hidden, 50272, embedding_size=embedding
    )


_SPECS = (
    _opt("125m", 12, 12, 768),
    _opt("350m", 24, 16, 1024, embedding=512),
    _opt("1.3b", 24, 32, 2048),
    _opt("2.7b", 32, 32, 2560),
    _opt("6.7b", 32, 32, 4096),
    _opt("13b", 40, 40, 5120),
    _opt("30b", 48, 56, 7168),
    _opt("66b", 64, 72, 9216),
    _opt("175b", 96, 96, 12288),
    ModelSpec("llama-7b", "llama", 32, 32, 4096, 11008, 32000),
    ModelSpec("llama-13b", "llama", 40, 40, 5120, 13824, 32000),
)
MODELS: dict[str, ModelSpec] = {spec.name: spec for spec in _SPECS}


def find_model(name: str) -> ModelSpec:
    """Return the shape of a known model; raises UserError naming the nearest ones."""
    if name not in MODELS:
        raise unknown_name("model", name, MODELS)
    return MODELS[name]
