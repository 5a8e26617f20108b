"""Shapes of models: against published numbers, against transformers, and from any config.json."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from model_configs import CONFIGS, mutate, write_config

from engines.core.errors import UserError
from engines.core.model_config import ModelConfig
from engines.core.models import LAYOUTS, MODELS, ModelSpec, find_model, spec_of_config

KIB = 1024
# Parameters as the checkpoints' safetensors metadata on huggingface.co count them (OPT: arXiv
# 2205.01068). KV bytes a token in 16 bits are 2 x layers x KV heads x head size x 2 bytes, as in
# section 3 of the paper (OPT-13B: 800 KiB), with the layers and KV heads of the model cards.
PUBLISHED = [
    ("opt-13b", 12_853_473_280, 800 * KIB),
    ("llama-2-7b", 6_738_415_616, 512 * KIB),
    ("llama-2-13b", 13_015_864_320, 800 * KIB),
    ("llama-2-70b", 68_976_648_192, 320 * KIB),
    ("llama-3-8b", 8_030_261_248, 128 * KIB),
    ("llama-3.1-70b", 70_553_706_496, 320 * KIB),
    ("llama-3.2-1b", 1_235_814_400, 32 * KIB),
    ("llama-3.2-3b", 3_212_749_824, 112 * KIB),
    ("mistral-7b", 7_241_732_096, 128 * KIB),
    ("qwen2.5-0.5b", 494_032_768, 12 * KIB),
    ("qwen2.5-1.5b", 1_543_714_304, 28 * KIB),
    ("qwen2.5-7b", 7_615_616_512, 56 * KIB),
    ("qwen2.5-72b", 72_706_203_648, 320 * KIB),
    ("qwen3-8b", 8_190_735_360, 144 * KIB),
]
# What these models' cards say of their context.
CONTEXTS = {
    "opt-13b": 2048, "llama-7b": 2048, "llama-2-7b": 4096, "llama-3-8b": 8192,
    "llama-3.1-8b": 131_072, "mistral-7b": 32_768, "qwen2.5-7b": 32_768, "qwen3-8b": 40_960,
}  # fmt: skip


@pytest.mark.parametrize(("name", "parameters", "kv_bytes"), PUBLISHED)
def test_published_parameters_and_kv_bytes(name: str, parameters: int, kv_bytes: int) -> None:
    model = find_model(name)
    assert model.num_parameters == parameters
    assert model.kv_bytes_per_token == kv_bytes


def test_published_contexts() -> None:
    assert {name: MODELS[name].max_positions for name in CONTEXTS} == CONTEXTS


def test_full_precision_doubles_the_cache_and_bf16_does_not(tmp_path: Path) -> None:
    sizes = {
        dtype: find_model(str(write_config(tmp_path, CONFIGS["llama"] | {"torch_dtype": dtype})))
        for dtype in ("float32", "float16", "bfloat16")
    }
    found = {dtype: model.kv_bytes_per_token for dtype, model in sizes.items()}
    assert found == {"float32": 2 * found["float16"], "float16": 384, "bfloat16": 384}


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_equal_those_of_transformers(name: str) -> None:
    """Of a small model of each family, with its biases, norms, tied embeddings and positions."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    values = {key: value for key, value in CONFIGS[name].items() if key != "torch_dtype"}
    config = transformers.AutoConfig.for_model(**values)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    ours = spec_of_config(ModelConfig(name, name, CONFIGS[name]))
    assert ours.num_parameters == model.num_parameters()
    assert ours.notes == ()


def test_every_family_is_among_them() -> None:
    assert {config["model_type"] for config in CONFIGS.values()} == set(LAYOUTS)


@pytest.mark.parametrize("place", ["directory", "file", "named"])
def test_any_way_to_name_a_config(tmp_path: Path, place: str) -> None:
    path = write_config(tmp_path / "my-model", CONFIGS["qwen3"])
    named = path.rename(path.with_name("qwen.json")) if place == "named" else path
    given = {"directory": path.parent, "file": path, "named": named}[place]
    model = find_model(str(given))
    assert model.name == str(given)
    assert (model.family, model.head_size, model.attention_size) == ("qwen3", 32, 128)
    assert (model.kv_heads, model.max_positions) == (2, 128)


def test_unknown_family_is_counted_as_llama_and_says_so(tmp_path: Path) -> None:
    known = CONFIGS["llama"]
    model = find_model(str(write_config(tmp_path, known | {"model_type": "novel"})))
    (note,) = model.notes
    assert "model_type 'novel' is not known" in note
    assert replace(model, family="llama", notes=()) == find_model(
        str(write_config(tmp_path, known))
    )
    plain = known | {"model_type": "novel", "hidden_act": "gelu"}
    assert not find_model(str(write_config(tmp_path, plain))).layout.gated


def test_what_the_simulation_leaves_out_is_noted(tmp_path: Path) -> None:
    windowed = CONFIGS["mistral"] | {"sliding_window": 4096}
    (note,) = find_model(str(write_config(tmp_path, windowed))).notes
    assert "sliding_window 4096 is ignored" in note
    off = windowed | {"use_sliding_window": False}
    assert find_model(str(write_config(tmp_path, off))).notes == ()
    seeing = {"model_type": "vision", "text_config": CONFIGS["llama"]}
    model = find_model(str(write_config(tmp_path, seeing)))
    assert (model.family, model.notes) == ("llama", ("the language model alone",))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_local_experts": 8}, "num_local_experts 8 is not supported"),
        ({"kv_lora_rank": 512}, "kv_lora_rank 512 is not supported"),
        ({"state_size": 16}, "state_size 16 is not supported"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder True is not supported"),
        ({"quantization_config": {"bits": 4}}, "quantized checkpoints are not supported"),
        ({"num_key_value_heads": 3}, "num_key_value_heads 3 does not divide num_attention_heads 4"),
        ({"model_type": None}, "model_type is missing"),
        ({"intermediate_size": None}, "intermediate_size or ffn_dim or n_inner is missing"),
        ({"torch_dtype": "float8_e4m3fn"}, "unsupported dtype 'float8_e4m3fn'"),
        ({"hidden_size": 66}, "4 heads do not divide hidden_size 66"),
    ],
)
def test_shapes_that_do_not_follow_from_sizes(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = write_config(tmp_path, CONFIGS["llama"] | changes)
    with pytest.raises(UserError) as caught:
        find_model(str(path))
    assert str(caught.value).startswith(f"{path}: {message}")


def test_mutated_configurations_are_a_shape_or_one_line(tmp_path: Path) -> None:
    random_ = random.Random(14)
    shapes = 0
    for _ in range(3000):
        path = write_config(tmp_path, mutate(random_.choice(list(CONFIGS.values())), random_))
        try:
            model = find_model(str(path))
        except UserError as error:
            told = str(error)
            assert told.startswith(str(path))
            assert len(told) < 400 + len(str(path))
        else:
            shapes += 1
            told = "".join(model.notes)
            assert model.num_parameters > 0 < model.kv_bytes_per_token
        assert told.isprintable()
    assert 300 < shapes < 2700, "too few are valid, or too few are not"


GROUPED = ModelSpec("grouped", "llama", 2, 24, 384, 64, 100, num_kv_heads=4)


@pytest.mark.parametrize(("degree", "shards"), [(1, 1), (2, 2), (4, 4), (8, 4), (12, 4), (24, 4)])
def test_kv_heads_are_shared_out_and_then_replicated(degree: int, shards: int) -> None:
    assert GROUPED.kv_shards(degree) == shards


@pytest.mark.parametrize(
    ("degree", "message"),
    [
        (5, "degree 5 does not divide the 24 heads of grouped"),
        (0, "degree 0 does not divide the 24 heads"),
        (3, "degree 3 neither divides the 4 KV heads of grouped nor is a multiple"),
        (6, "degree 6 neither divides the 4 KV heads"),
    ],
)
def test_degrees_that_share_out_no_kv_heads(degree: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        GROUPED.kv_shards(degree)
