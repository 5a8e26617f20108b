"""config.json gives shape and architecture; what we do not support is named."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_values import JSON_VALUES

from engines.core.errors import UserError
from engines.core.models import MODELS
from engines.models.spec import RopeScaling, arch_from_spec, spec_from_config

OPT = {
    "model_type": "opt", "vocab_size": 50272, "hidden_size": 768, "num_hidden_layers": 12,
    "ffn_dim": 3072, "num_attention_heads": 12, "max_position_embeddings": 2048,
    "word_embed_proj_dim": 768, "activation_function": "relu", "eos_token_id": 2,
    "do_layer_norm_before": True, "torch_dtype": "float16",
}  # fmt: skip
LLAMA = {
    "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "num_hidden_layers": 32,
    "intermediate_size": 11008, "num_attention_heads": 32, "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6, "hidden_act": "silu", "eos_token_id": [2, 3], "rope_scaling": None,
}  # fmt: skip
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def parse(tmp_path, config, **changes):
    values = {key: value for key, value in {**config, **changes}.items() if value != "absent"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    return spec_from_config(tmp_path)


def test_opt_125m(tmp_path):
    spec, arch = parse(tmp_path, OPT)
    assert spec.num_parameters == MODELS["opt-125m"].num_parameters
    assert arch == arch_from_spec(MODELS["opt-125m"])
    assert spec.layout == MODELS["opt-125m"].layout
    assert (spec.name, spec.dtype_bytes) == (tmp_path.name, 2)


def test_opt_350m(tmp_path):
    spec, arch = parse(
        tmp_path, OPT, num_hidden_layers=24, hidden_size=1024, num_attention_heads=16,
        ffn_dim=4096, word_embed_proj_dim=512, do_layer_norm_before=False,
    )  # fmt: skip
    assert spec.num_parameters == MODELS["opt-350m"].num_parameters
    assert arch == arch_from_spec(MODELS["opt-350m"])
    assert spec.layout == MODELS["opt-350m"].layout


def test_published_type(tmp_path):
    assert parse(tmp_path, OPT, torch_dtype="absent", dtype="float32")[0].dtype_bytes == 4
    assert parse(tmp_path, LLAMA)[0].dtype_bytes == 2


def test_opt_without_final_norm(tmp_path):
    spec, arch = parse(tmp_path, OPT, _remove_final_layer_norm=True)
    assert arch.pre_norm
    assert not spec.layout.final_norm


def test_llama_defaults(tmp_path):
    spec, arch = parse(tmp_path, LLAMA)
    assert spec.kv_heads == 32
    assert arch.norm_eps == 1e-6
    assert arch.rope_theta == 10000.0
    assert arch.rope_scaling is None
    assert arch.eos_token_ids == (2, 3)


@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
def test_llama3_rope_in_either_form(tmp_path, key):
    rope = {**LLAMA3, "rope_type": "llama3", "original_max_position_embeddings": 8192}
    arch = parse(tmp_path, LLAMA, num_key_value_heads=8, rope_theta=5e5, **{key: rope})[1]
    assert arch.rope_theta == 5e5
    assert arch.rope_scaling == RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)


def test_old_spelling_of_linear_rope(tmp_path):
    arch = parse(tmp_path, LLAMA, rope_scaling={"type": "linear", "factor": 2.0})[1]
    assert arch.rope_scaling == RopeScaling("linear", 2.0)


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (OPT, {"model_type": "bloom"}, "unsupported model_type 'bloom': supported: llama, opt"),
        (OPT, {"model_type": "absent"}, "unsupported model_type None"),
        (OPT, {"activation_function": "gelu"}, "unsupported activation_function 'gelu'"),
        (OPT, {"layer_norm_elementwise_affine": False}, "layer_norm_elementwise_affine False"),
        (OPT, {"ffn_dim": "absent"}, "intermediate_size or ffn_dim or n_inner is missing"),
        (OPT, {"hidden_size": 770}, "12 heads do not divide hidden_size 770"),
        (OPT, {"vocab_size": -1}, "vocab_size must be a positive integer, got -1"),
        (OPT, {"vocab_size": "many"}, "vocab_size must be a positive integer, got 'many'"),
        (OPT, {"enable_bias": 1}, "enable_bias must be true or false, got 1"),
        (OPT, {"vocab_size": 10**30}, "vocab_size must be at most 16,777,216, got 1000"),
        (OPT, {"num_hidden_layers": 10**30}, "num_hidden_layers must be at most 1,024, got 1000"),
        (OPT, {"eos_token_id": True}, "eos_token_id must be token ids, got True"),
        (OPT, {"eos_token_id": "</s>"}, "eos_token_id must be token ids, got '</s>'"),
        (OPT, {"eos_token_id": [2, 10**30]}, r"eos_token_id must be token ids, got \[2, 1000"),
        (OPT, {"torch_dtype": "int8"}, "unsupported dtype 'int8': supported: float32, float16"),
        (OPT, {"torch_dtype": ["float16"]}, r"unsupported dtype \['float16'\]"),
        (OPT, {"quantization_config": {}}, "quantized checkpoints are not supported"),
        (LLAMA, {"hidden_act": "gelu"}, "unsupported hidden_act 'gelu': supported: 'silu'"),
        (LLAMA, {"head_dim": 64}, "unsupported head_dim 64: supported: 128"),
        (LLAMA, {"num_key_value_heads": 5}, "num_key_value_heads 5 does not divide"),
        (LLAMA, {"rms_norm_eps": 0}, "rms_norm_eps must be a positive number, got 0"),
        (LLAMA, {"rms_norm_eps": 10**400}, "rms_norm_eps must be finite, got 1000"),
        (LLAMA, {"rope_scaling": {"type": "yarn"}}, "unsupported rope type 'yarn'"),
        (LLAMA, {"rope_scaling": {"type": "linear"}}, "factor is missing"),
        (LLAMA, {"rope_scaling": [1]}, r"rope_scaling must be an object, got \[1\]"),
        (LLAMA, {"hidden_size": 96}, "rotary embedding needs even heads, got 3"),
    ],
)
def test_unsupported_or_malformed(tmp_path, config, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        parse(tmp_path, config, **changes)
    assert "config.json" in str(caught.value)


KEYS = st.sampled_from(sorted(
    {*OPT, *LLAMA, "num_key_value_heads", "head_dim", "rope_parameters", "rope_theta", "dtype",
     "attention_bias", "tie_word_embeddings", "_remove_final_layer_norm"}
))  # fmt: skip
ROPE = st.sampled_from(["type", "factor", "rope_theta", "original_max_position_embeddings"])


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(
    config=st.sampled_from([OPT, LLAMA]),
    changes=st.dictionaries(KEYS, JSON_VALUES, max_size=2),
    rope=st.none() | st.dictionaries(ROPE, JSON_VALUES, max_size=2),
)
def test_any_values_are_a_model_or_an_error(tmp_path_factory, config, changes, rope):
    if rope is not None:
        config = {**config, "rope_scaling": {"type": "llama3", **LLAMA3, **rope}}
    problem = ""
    try:
        spec, arch = parse(tmp_path_factory.getbasetemp(), config, **changes)
    except UserError as error:
        problem = str(error)
    if problem:
        assert "config.json" in problem
        return
    assert spec.num_parameters > 0
    assert all(-(1 << 31) < token < 1 << 31 for token in arch.eos_token_ids)


def test_unreadable_files(tmp_path):
    with pytest.raises(UserError, match=r"config\.json does not exist"):
        spec_from_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="is not valid JSON"):
        spec_from_config(tmp_path)
    (tmp_path / "config.json").write_text("[" * 100_000)  # deeper than the parser goes
    with pytest.raises(UserError, match="is not valid JSON"):
        spec_from_config(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match="must hold a JSON object, got list"):
        spec_from_config(tmp_path)
