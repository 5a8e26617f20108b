"""Shapes of models and settings of an engine; every limit is checked at construction."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from engines.core.errors import UserError, unknown_name

GIB = 1 << 30
MOST_KV_SLOTS = 100_000_000  # beyond every machine, and within what lists may hold here


def parse_size(text: str) -> int:
    """Read a memory size such as "40GiB" or "512MiB" in bytes; raises UserError."""
    units = {"MiB": 1 << 20, "GiB": GIB, "MB": 10**6, "GB": 10**9}
    for unit, factor in units.items():
        digits = text.removesuffix(unit)
        if digits == text:
            continue
        try:
            size = float(digits) * factor
        except ValueError:
            break
        if 1 <= size < float("inf"):
            return int(size)
    raise UserError(f"memory size '{text}' is not understood: write it as 40GiB or 512MiB")


class System(StrEnum):
    """The serving systems under comparison, by their one name everywhere (paper, section 6.1)."""

    ASTRA = "astra"
    ORCA_ORACLE = "orca-oracle"
    ORCA_POW2 = "orca-pow2"
    ORCA_MAX = "orca-max"
    FT = "ft"

    @classmethod
    def parse(cls, name: str) -> System:
        """Return the system called `name`; raises UserError naming the nearest ones."""
        try:
            return cls(name)
        except ValueError:
            raise unknown_name("system", name, [s.value for s in cls]) from None


class Preemption(StrEnum):
    """How a preempted group's KV cache is kept (paper, section 4.5).

    AUTO and RECOMPUTE recompute a group of one sequence and swap a group of several.
    """

    AUTO = "auto"
    RECOMPUTE = "recompute"
    SWAP = "swap"


@dataclass(frozen=True)
class ModelSpec:
    """A decoder-only transformer by its shape."""

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

        A gated FFN's two matrices up are one product.
        """
        hidden, ffn = self.hidden_size, self.ffn_size
        up = 2 * ffn if self.family == "llama" else ffn
        qkv = hidden + 2 * self.kv_heads * self.head_size
        return ((qkv, hidden), (hidden, hidden), (up, hidden), (hidden, ffn))

    @property
    def num_parameters(self) -> int:
        """Parameters by shape; the output layer of OPT is tied to its embedding."""
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


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Settings of one engine; defaults are the original artifact's.

    `num_slots` is the KV cache's size in tokens. `max_batch_size` limits requests in an FT batch.
    `swap_slots` is the size of the CPU pool in tokens. `watermark` is the share of blocks kept
    free when a prompt is admitted.
    """

    system: System
    num_slots: int
    swap_slots: int = 0
    block_size: int = 16
    max_batched_tokens: int = 2560
    max_num_seqs: int = 2048
    max_batch_size: int = 8
    max_model_len: int = 2048
    preemption: Preemption = Preemption.AUTO
    share_prefix: bool = False
    watermark: float = 0.01

    def __post_init__(self) -> None:
        limits = (
            "num_slots",
            "block_size",
            "max_batched_tokens",
            "max_num_seqs",
            "max_batch_size",
            "max_model_len",
        )
        for name in limits:
            value = getattr(self, name)
            if value < 1:
                raise UserError(f"{name.replace('_', ' ')} must be at least 1, got {value}")
        if self.block_size > 256:
            raise UserError(f"block size must be from 1 to 256, got {self.block_size}")
        if self.num_slots < self.block_size:
            raise UserError(
                f"{self.num_slots} KV slots do not hold one block of {self.block_size} tokens: "
                "raise --kv-slots or lower --block-size"
            )
        if not 0 <= self.watermark < 1:
            raise UserError(f"watermark must be in [0, 1), got {self.watermark}")
        if self.swap_slots < 0:
            raise UserError(f"swap slots must not be negative, got {self.swap_slots}")

    @property
    def num_blocks(self) -> int:
        """Blocks in the device's pool."""
        return self.num_slots // self.block_size

    @property
    def num_swap_blocks(self) -> int:
        """Blocks in the CPU pool."""
        return self.swap_slots // self.block_size
