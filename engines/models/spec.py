"""What a model of a supported family is beyond its shape, read from a Hugging Face config.json."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from reprlib import repr as shown

from engines.core.errors import UserError
from engines.core.model_config import ModelConfig, read_config
from engines.core.models import ModelSpec, find_model, is_path, spec_of_config
from engines.models.generation import end_token_ids

FAMILIES = ("llama", "opt")


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
    """What a model of a family is beyond its shape and layout (ModelSpec).

    `pre_norm`: norms stand before attention and MLP (after them in opt-350m). `eos_token_ids` end a
    sequence; none where the checkpoint names none.
    """

    pre_norm: bool = True
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    eos_token_ids: tuple[int, ...] = ()


def arch_from_spec(spec: ModelSpec) -> ArchConfig:
    """Return the architecture of a model known by name, whose weights are drawn at random.

    Raises UserError for a family that is only simulated.
    """
    if spec.family not in FAMILIES:
        raise UserError(
            f"{spec.name}: unsupported model_type {spec.family!r}: supported: {', '.join(FAMILIES)}"
        )
    return ArchConfig(
        pre_norm=spec.layout.final_norm,  # opt-350m alone has its norms after the blocks
        norm_eps=1e-6 if spec.family == "llama" else 1e-5,
        eos_token_ids=(2,),
    )


def describe_model(
    name_or_path: str, config: ModelConfig | None = None
) -> tuple[ModelSpec, ArchConfig]:
    """Return shape and architecture of a known model or a checkpoint.

    `config` is what a path was read as, if it was. Raises UserError for what cannot be run.
    """
    if is_path(name_or_path):
        return spec_from_config(name_or_path, config)
    spec = find_model(name_or_path)
    return spec, arch_from_spec(spec)


def why_not_run(name_or_path: str, config: ModelConfig | None = None) -> str | None:
    """Why a model that can be simulated cannot be run (see `describe_model`); None where it can."""
    try:
        describe_model(name_or_path, config)
    except UserError as error:
        return str(error)
    return None


def spec_from_config(
    path: str | Path, config: ModelConfig | None = None
) -> tuple[ModelSpec, ArchConfig]:
    """Read `path` (a checkpoint directory or its config.json), of which `config` may be known.

    Raises UserError naming what is missing, malformed or unsupported.
    """
    config = config or read_config(path)
    family = config.values.get("model_type")
    if family not in FAMILIES:
        supported = ", ".join(FAMILIES)
        raise config.error(f"unsupported model_type {shown(family)}: supported: {supported}")
    spec = spec_of_config(config)
    arch = _opt(config, spec) if family == "opt" else _llama(config, spec)
    return spec, replace(arch, eos_token_ids=end_token_ids(path, config))


def _opt(config: ModelConfig, spec: ModelSpec) -> ArchConfig:
    config.require("activation_function", "relu")
    config.require("layer_norm_elementwise_affine", True)
    config.require("head_dim", spec.hidden_size // spec.num_heads)
    return ArchConfig(pre_norm=config.flag("do_layer_norm_before", default=True))


def _llama(config: ModelConfig, spec: ModelSpec) -> ArchConfig:
    config.require("hidden_act", "silu")
    config.require("head_dim", spec.hidden_size // spec.num_heads)
    if spec.head_size % 2:
        raise config.error(f"rotary embedding needs even heads, got {spec.head_size}")
    theta, scaling = _rope(config, spec.max_positions)
    return ArchConfig(
        norm_eps=config.number("rms_norm_eps", default=1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
    )


def _rope(config: ModelConfig, max_positions: int) -> tuple[float, RopeScaling | None]:
    """Read theta and scaling: `rope_parameters` holds both, `rope_scaling` is the older form."""
    key = "rope_parameters" if config.values.get("rope_parameters") else "rope_scaling"
    rope = config.part(key)
    rope.require("partial_rotary_factor", 1.0)
    theta = rope.number("rope_theta", default=config.number("rope_theta", default=10000.0))
    kind = rope.get("rope_type", "type", default="default")
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
            rope.size("original_max_position_embeddings", default=max_positions),
        )
    raise config.error(f"unsupported rope type {shown(kind)}: supported: default, linear, llama3")
