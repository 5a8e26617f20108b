"""Shapes of models: everything that memory and the price of a step depend on."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from engines.core.errors import UserError, unknown_name
from engines.core.model_config import ModelConfig, read_config
from engines.core.text import shown

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_MOST_LAYERS = 1024
# A model with any of these is no stack of equal layers of attention and one FFN.
_IRREGULAR = (
    *("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
    *("kv_lora_rank", "state_size", "ssm_state_size", "mamba_d_state", "is_encoder_decoder"),
)
# Flags of a config.json, and what of the layout each sets.
_FLAGS = {
    "tie_word_embeddings": ("tied",),
    "attention_bias": ("qkv_bias", "output_bias"),
    "mlp_bias": ("ffn_bias",),
    "enable_bias": ("qkv_bias", "output_bias", "ffn_bias"),
    "use_bias": ("qkv_bias", "output_bias", "ffn_bias"),
    "do_layer_norm_before": ("final_norm",),
}


@dataclass(frozen=True)
class Layout:
    """Which parameters a family has besides the matrices of attention.

    `gated`: the FFN multiplies a gate with the up projection (two matrices up, not one). A layer
    has `layer_norms`, with a bias (LayerNorm: `norm_bias`) or none (RMSNorm), and with `head_norms`
    one each for queries and keys, per head. `tied`: the output layer is the embedding.
    `extra_positions`: rows of a learned table of positions beyond the context; None where positions
    are rotary.
    """

    gated: bool = True
    qkv_bias: bool = False
    output_bias: bool = False
    ffn_bias: bool = False
    layer_norms: int = 2
    norm_bias: bool = False
    head_norms: bool = False
    final_norm: bool = True
    tied: bool = False
    extra_positions: int | None = None


_BIASED = Layout(gated=False, qkv_bias=True, output_bias=True, ffn_bias=True, norm_bias=True)
# By model_type, with transformers' defaults; flags of a config.json change them.
LAYOUTS = {
    "opt": replace(_BIASED, tied=True, extra_positions=2),
    "gpt2": replace(_BIASED, tied=True, extra_positions=0),
    "gpt_bigcode": replace(_BIASED, tied=True, extra_positions=0),
    "gpt_neox": _BIASED,
    "starcoder2": replace(_BIASED, tied=True),
    "llama": Layout(),
    "mistral": Layout(),
    "phi3": Layout(),
    "granite": Layout(),
    "gemma": Layout(tied=True),
    "gemma2": Layout(tied=True, layer_norms=4),
    "gemma3_text": Layout(tied=True, layer_norms=4, head_norms=True),
    "qwen2": Layout(qkv_bias=True),
    "qwen3": Layout(head_norms=True),
}


@dataclass(frozen=True)
class ModelSpec:
    """The shape of a decoder-only transformer.

    `notes` says what a simulation of this shape leaves out of the model, one phrase each.
    """

    name: str
    family: str  # model_type of its config.json: "opt", "llama", "qwen2"
    num_layers: int
    num_heads: int
    hidden_size: int
    ffn_size: int
    vocab_size: int
    max_positions: int = 2048
    num_kv_heads: int | None = None  # None: as many as num_heads
    embedding_size: int | None = None  # None: hidden_size (opt-350m projects from 512)
    dtype_bytes: int = 2
    head_dim: int | None = None  # None: hidden_size over num_heads
    layout_changes: tuple[tuple[str, bool], ...] = ()  # where it differs from its family's layout
    notes: tuple[str, ...] = ()

    @property
    def layout(self) -> Layout:
        """Which parameters it has besides the matrices of attention."""
        return replace(LAYOUTS.get(self.family, Layout()), **dict(self.layout_changes))

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.head_dim or self.hidden_size // self.num_heads

    @property
    def attention_size(self) -> int:
        """Width of all heads' queries together: hidden_size in most models."""
        return self.num_heads * self.head_size

    @property
    def kv_heads(self) -> int:
        """Number of key/value heads."""
        return self.num_kv_heads or self.num_heads

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of KV cache per token over all layers (800 KiB for OPT-13B, section 3)."""
        return 2 * self.num_layers * self.kv_heads * self.head_size * self.dtype_bytes

    def kv_shards(self, tensor_parallel: int) -> int:
        """Over how many of the devices a token's cache is spread; beyond that it is replicated.

        A device holds one KV head at least. Raises UserError for a degree that does not divide the
        heads, or neither divides the KV heads nor is a multiple of them.
        """
        if tensor_parallel < 1 or self.num_heads % tensor_parallel:
            raise UserError(
                f"tensor-parallel degree {tensor_parallel} does not divide the {self.num_heads} "
                f"heads of {self.name}"
            )
        shards = min(tensor_parallel, self.kv_heads)
        if max(tensor_parallel, self.kv_heads) % shards:
            raise UserError(
                f"tensor-parallel degree {tensor_parallel} neither divides the {self.kv_heads} KV "
                f"heads of {self.name} nor is a multiple of them"
            )
        return shards

    @property
    def layer_products(self) -> tuple[tuple[int, int], ...]:
        """Outputs and inputs of a layer's matrix products: QKV, attention's output, FFN up, down.

        The two up matrices of a gated FFN count as one product.
        """
        hidden, ffn, queries = self.hidden_size, self.ffn_size, self.attention_size
        up = 2 * ffn if self.layout.gated else ffn
        qkv = queries + 2 * self.kv_heads * self.head_size
        return ((qkv, hidden), (hidden, queries), (up, hidden), (hidden, ffn))

    @property
    def num_parameters(self) -> int:
        """Number of parameters; a tied output layer counts once, with the embedding."""
        layout, hidden = self.layout, self.hidden_size
        qkv, output, up, down = self.layer_products
        norm = hidden * (2 if layout.norm_bias else 1)
        layer = sum(outputs * inputs for outputs, inputs in self.layer_products)
        layer += layout.layer_norms * norm
        layer += layout.qkv_bias * qkv[0] + layout.output_bias * output[0]
        layer += layout.ffn_bias * (up[0] + down[0]) + layout.head_norms * 2 * self.head_size
        width = self.embedding_size or hidden
        ends = self.vocab_size * width * (1 if layout.tied else 2)
        ends += 2 * width * hidden if width != hidden else 0
        ends += norm if layout.final_norm else 0
        if layout.extra_positions is not None:
            ends += (self.max_positions + layout.extra_positions) * hidden
        return self.num_layers * layer + ends


def spec_of_config(config: ModelConfig) -> ModelSpec:
    """Read the shape that a config.json describes; raises UserError where it is none.

    Keys are those of transformers, with GPT-2's older names beside them. Refused is what does not
    follow from sizes: experts, latent attention, state spaces, an encoder, quantized weights.
    """
    config = _text_model(config)
    _require_regular(config)
    family = config.text("model_type")
    heads = config.size("num_attention_heads", "n_head")
    hidden = config.size("hidden_size", "n_embd")
    head_dim = None if config.values.get("head_dim") is None else config.size("head_dim")
    if head_dim is None and hidden % heads:
        raise config.error(f"{heads} heads do not divide hidden_size {hidden}")
    one_kv_head = config.flag("multi_query", default=False)
    kv_heads = config.size("num_key_value_heads", default=1 if one_kv_head else heads)
    if heads % kv_heads:
        raise config.error(
            f"num_key_value_heads {kv_heads} does not divide num_attention_heads {heads}"
        )
    ffn_default = 4 * hidden if family in ("gpt2", "gpt_bigcode") else None
    return ModelSpec(
        name=config.name,
        family=family,
        num_layers=config.size("num_hidden_layers", "n_layer", most=_MOST_LAYERS),
        num_heads=heads,
        hidden_size=hidden,
        ffn_size=config.size("intermediate_size", "ffn_dim", "n_inner", default=ffn_default),
        vocab_size=config.size("vocab_size"),
        max_positions=config.size("max_position_embeddings", "n_positions", default=2048),
        num_kv_heads=kv_heads,
        embedding_size=config.size("word_embed_proj_dim", default=hidden),
        dtype_bytes=DTYPE_BYTES[dtype_of_config(config)],
        head_dim=head_dim,
        layout_changes=_layout_changes(config, family),
        notes=tuple(_notes(config, family)),
    )


def dtype_of_config(config: ModelConfig) -> str:
    """The stored type: `torch_dtype` before transformers 5; the paper's FP16 if neither."""
    name = config.get("dtype", "torch_dtype", default="float16")
    if not isinstance(name, str) or name not in DTYPE_BYTES:
        raise config.error(f"unsupported dtype {shown(name)}: supported: {', '.join(DTYPE_BYTES)}")
    return name


def _text_model(config: ModelConfig) -> ModelConfig:
    """The language model of one that also sees or hears; the same for all others."""
    if "hidden_size" in config.values or "text_config" not in config.values:
        return config
    inner = config.part("text_config")
    return replace(config, values={**config.values, **inner.values})


def _require_regular(config: ModelConfig) -> None:
    """Raise UserError for a model whose shape does not follow from its sizes."""
    if config.values.get("quantization_config") is not None:
        raise config.error("quantized checkpoints are not supported: use FP16, BF16 or FP32")
    for key in _IRREGULAR:
        if value := config.values.get(key):
            raise config.error(
                f"{key} {shown(value)} is not supported: a simulated model is a stack of equal "
                "layers of attention and a dense FFN"
            )


def _layout_changes(config: ModelConfig, family: str) -> tuple[tuple[str, bool], ...]:
    """Where the flags of a configuration differ from its family's layout."""
    layout = LAYOUTS.get(family, Layout())
    changes: dict[str, bool] = {}
    if family not in LAYOUTS:
        activation = config.text("hidden_act", "activation_function", default="silu")
        changes["gated"] = activation in ("silu", "swish", "swiglu")
    for key, names in _FLAGS.items():
        for name in names:
            changes[name] = config.flag(key, default=changes.get(name, getattr(layout, name)))
    changes["final_norm"] &= not config.flag("_remove_final_layer_norm", default=False)
    return tuple((n, value) for n, value in changes.items() if value != getattr(layout, n))


def _notes(config: ModelConfig, family: str) -> Iterator[str]:
    if family not in LAYOUTS:
        yield (
            f"model_type {shown(family)} is not known: parameters are counted as LLaMA's, with a "
            "gated FFN if hidden_act is silu"
        )
    if "text_config" in config.values:
        yield "the language model alone"
    if config.values.get("sliding_window") and config.flag("use_sliding_window", default=True):
        window = config.size("sliding_window")
        yield f"sliding_window {window} is ignored: every layer attends to the whole context"


def _read_models() -> dict[str, ModelSpec]:
    """The models of models.toml: tables of configurations with what they share as `all`."""
    text = (resources.files("engines.core") / "models.toml").read_text(encoding="utf-8")
    return {
        name: spec_of_config(ModelConfig(name, "models.toml", {**group["all"], **values}))
        for group in tomllib.loads(text).values()
        for name, values in group.items()
        if name != "all"
    }


MODELS: dict[str, ModelSpec] = _read_models()


def is_path(name_or_path: str) -> bool:
    """Whether a model is given by a path; a known name is never one (write ./opt-13b)."""
    if name_or_path in MODELS:
        return False
    named = Path(name_or_path)
    looks = len(named.parts) > 1 or named.suffix == ".json" or name_or_path.startswith(".")
    return looks or os.path.exists(name_or_path)


def find_model(name_or_path: str, config: ModelConfig | None = None) -> ModelSpec:
    """Return the shape of a known model, or of a checkpoint directory or config.json.

    `config` is the file that a path names, where it has been read. Raises UserError for a file that
    does not describe a shape, and for an unknown name, which names the nearest ones.
    """
    if is_path(name_or_path):  # its name is the path, which is no name of the paper's models
        return replace(spec_of_config(config or read_config(name_or_path)), name=name_or_path)
    if name_or_path not in MODELS:
        raise unknown_name("model", name_or_path, MODELS)
    return MODELS[name_or_path]
