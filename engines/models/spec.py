"""Reads a Hugging Face config.json: the shape of a model and what its shape does not say."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.core.errors import UserError
from engines.core.models import ModelSpec

CONFIG_FILE = "config.json"
_DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
# Beyond every model, and within what can be laid out before it is held against the weights.
_MOST = 1 << 24
_MOST_LAYERS = 1024


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched beyond the trained context.

    `kind` is "linear" (all divided by `factor`) or "llama3" (long waves divided by `factor`, short
    ones kept, those between blended; Llama 3.1's released code).
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192


@dataclass(frozen=True, kw_only=True)
class ArchConfig:
    """What a model of a family is beyond its shape (ModelSpec).

    `pre_norm`: norms stand before attention and MLP (after them in opt-350m). `attention_bias` and
    `mlp_bias`: the linears have biases. `tied_embeddings`: the output layer is the embedding.
    `eos_token_ids` end a sequence; none where the configuration names none. `dtype` names the type
    of the published weights: "float16", "bfloat16", "float32".
    """

    pre_norm: bool = True
    final_norm: bool = True
    attention_bias: bool = False
    mlp_bias: bool = False
    tied_embeddings: bool = False
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    eos_token_ids: tuple[int, ...] = ()
    dtype: str = "float16"


def arch_from_spec(spec: ModelSpec) -> ArchConfig:
    """Return the architecture of a model known by name (the published configurations)."""
    if spec.family == "llama":
        return ArchConfig(norm_eps=1e-6, eos_token_ids=(2,))
    projected = spec.embedding_size not in (None, spec.hidden_size)
    return ArchConfig(
        pre_norm=not projected,  # opt-350m is both the projected and the only post-norm OPT
        final_norm=not projected,
        attention_bias=True,
        mlp_bias=True,
        tied_embeddings=True,
        eos_token_ids=(2,),
    )


def spec_from_config(path: str | Path) -> tuple[ModelSpec, ArchConfig]:
    """Read `path` (a checkpoint directory or its config.json).

    Raises UserError naming what is missing, malformed or unsupported. (transformers' AutoConfig
    fills in what is missing with a default and takes heads that do not divide, in six seconds and
    with torch.)
    """
    file = Path(path)
    file = file / CONFIG_FILE if file.is_dir() else file
    config = _Config(file, _read_json(file))
    if "quantization_config" in config.values:
        raise config.error("quantized checkpoints are not supported: use FP16, BF16 or FP32")
    family = config.values.get("model_type")
    if family == "opt":
        return _opt(config)
    if family == "llama":
        return _llama(config)
    raise config.error(f"unsupported model_type '{family}': supported: llama, opt")


def _read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object; raises UserError naming the file."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file} does not exist: give a Hugging Face checkpoint") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{file} must hold a JSON object, got {type(values).__name__}")
    return values


@dataclass(frozen=True)
class _Config:
    """The values of one config.json; null counts as absent. Errors name file and key."""

    file: Path
    values: dict[str, Any]

    def error(self, problem: str) -> UserError:
        return UserError(f"{self.file}: {problem}")

    def get(self, key: str, default: Any = None) -> Any:
        value = self.values.get(key)
        value = default if value is None else value
        if value is None:
            raise self.error(f"{key} is missing")
        return value

    def size(self, key: str, default: int | None = None, *, most: int = _MOST) -> int:
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.error(f"{key} must be a positive integer, got {value!r}")
        if value > most:
            raise self.error(f"{key} must be at most {most:,}, got {value:,}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise self.error(f"{key} must be a positive number, got {value!r}")
        if value > sys.float_info.max:
            raise self.error(f"{key} must be finite, got {value!r}")
        return float(value)

    def flag(self, key: str, *, default: bool) -> bool:
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.error(f"{key} must be true or false, got {value!r}")
        return value

    def require(self, key: str, allowed: Any) -> None:
        if (value := self.get(key, allowed)) != allowed:
            raise self.error(f"unsupported {key} {value!r}: supported: {allowed!r}")

    def dtype(self) -> str:
        """The stored type: `torch_dtype` before transformers 5; the paper's FP16 if neither."""
        name = self.values.get("dtype") or self.values.get("torch_dtype") or "float16"
        if not isinstance(name, str) or name not in _DTYPE_BYTES:
            known = ", ".join(_DTYPE_BYTES)
            raise self.error(f"unsupported dtype {name!r}: supported: {known}")
        return name

    def eos_token_ids(self) -> tuple[int, ...]:
        value = self.get("eos_token_id", [])
        ids = value if isinstance(value, list) else [value]
        if not all(isinstance(token, int) and abs(token) < 1 << 31 for token in ids):
            raise self.error(f"eos_token_id must be token ids, got {value!r}")
        return tuple(ids)


def _spec(config: _Config, *, ffn_key: str, **shape: Any) -> ModelSpec:
    """Build the parts of the shape that both families name alike."""
    heads, hidden = config.size("num_attention_heads"), config.size("hidden_size")
    if hidden % heads:
        raise config.error(f"{heads} heads do not divide hidden_size {hidden}")
    return ModelSpec(
        name=config.file.resolve().parent.name,
        num_layers=config.size("num_hidden_layers", most=_MOST_LAYERS),
        num_heads=heads,
        hidden_size=hidden,
        ffn_size=config.size(ffn_key),
        vocab_size=config.size("vocab_size"),
        max_positions=config.size("max_position_embeddings", 2048),
        dtype_bytes=_DTYPE_BYTES[config.dtype()],
        **shape,
    )


def _opt(config: _Config) -> tuple[ModelSpec, ArchConfig]:
    config.require("activation_function", "relu")
    config.require("layer_norm_elementwise_affine", True)
    pre_norm = config.flag("do_layer_norm_before", default=True)
    bias = config.flag("enable_bias", default=True)
    embedding = config.size("word_embed_proj_dim", config.size("hidden_size"))
    spec = _spec(config, family="opt", ffn_key="ffn_dim", embedding_size=embedding)
    arch = ArchConfig(
        pre_norm=pre_norm,
        final_norm=pre_norm and not config.flag("_remove_final_layer_norm", default=False),
        attention_bias=bias,
        mlp_bias=bias,
        tied_embeddings=config.flag("tie_word_embeddings", default=True),
        eos_token_ids=config.eos_token_ids(),
        dtype=config.dtype(),
    )
    return spec, arch


def _llama(config: _Config) -> tuple[ModelSpec, ArchConfig]:
    config.require("hidden_act", "silu")
    kv_heads = config.size("num_key_value_heads", config.size("num_attention_heads"))
    spec = _spec(config, family="llama", ffn_key="intermediate_size", num_kv_heads=kv_heads)
    config.require("head_dim", spec.head_size)
    if spec.head_size % 2:
        raise config.error(f"rotary embedding needs even heads, got {spec.head_size}")
    if spec.num_heads % kv_heads:
        raise config.error(
            f"num_key_value_heads {kv_heads} does not divide num_attention_heads {spec.num_heads}"
        )
    theta, scaling = _rope(config, spec.max_positions)
    arch = ArchConfig(
        attention_bias=config.flag("attention_bias", default=False),
        mlp_bias=config.flag("mlp_bias", default=False),
        tied_embeddings=config.flag("tie_word_embeddings", default=False),
        norm_eps=config.number("rms_norm_eps", 1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        eos_token_ids=config.eos_token_ids(),
        dtype=config.dtype(),
    )
    return spec, arch


def _rope(config: _Config, max_positions: int) -> tuple[float, RopeScaling | None]:
    """Read theta and scaling: `rope_parameters` holds both, `rope_scaling` is the older form."""
    key = "rope_parameters" if config.values.get("rope_parameters") else "rope_scaling"
    values = config.get(key, {})
    if not isinstance(values, dict):
        raise config.error(f"{key} must be an object, got {values!r}")
    rope = _Config(config.file, values)
    rope.require("partial_rotary_factor", 1.0)
    theta = rope.number("rope_theta", config.number("rope_theta", 10000.0))
    kind = values.get("rope_type", values.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind == "linear":
        return theta, RopeScaling("linear", rope.number("factor"))
    if kind == "llama3":
        return theta, RopeScaling(
            "llama3",
            rope.number("factor"),
            rope.number("low_freq_factor"),
            rope.number("high_freq_factor"),
            rope.size("original_max_position_embeddings", max_positions),
        )
    raise config.error(f"unsupported rope type '{kind}': supported: default, linear, llama3")
