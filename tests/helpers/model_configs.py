"""Small configurations of each family, as transformers would save them, and junk for them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

_SIZES: dict[str, Any] = {
    "vocab_size": 384, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 128, "torch_dtype": "bfloat16", "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_GATED = {**_SIZES, "intermediate_size": 176, "num_key_value_heads": 2, "hidden_act": "silu"}
_GPT2 = {
    "vocab_size": 384, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128,
    "n_inner": None, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "opt": {**_SIZES, "model_type": "opt", "ffn_dim": 256, "word_embed_proj_dim": 64},
    "opt-projected": {
        **_SIZES, "model_type": "opt", "ffn_dim": 256, "word_embed_proj_dim": 32,
        "do_layer_norm_before": False,
    },
    "gpt2": {**_GPT2, "model_type": "gpt2"},
    "gpt_bigcode": {**_GPT2, "model_type": "gpt_bigcode", "multi_query": True},
    "gpt_neox": {**_SIZES, "model_type": "gpt_neox", "intermediate_size": 256},
    "starcoder2": {
        **_SIZES, "model_type": "starcoder2", "intermediate_size": 256, "num_key_value_heads": 2,
        "use_bias": True, "tie_word_embeddings": True, "sliding_window": None,
    },
    "llama": {**_GATED, "model_type": "llama", "tie_word_embeddings": False},
    "llama-biased": {**_GATED, "model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama-tied": {**_GATED, "model_type": "llama", "tie_word_embeddings": True},
    "mistral": {**_GATED, "model_type": "mistral", "head_dim": 32, "sliding_window": None},
    "phi3": {**_GATED, "model_type": "phi3"},
    "granite": {**_GATED, "model_type": "granite", "tie_word_embeddings": True},
    "gemma": {**_GATED, "model_type": "gemma", "head_dim": 32},
    "gemma2": {**_GATED, "model_type": "gemma2", "head_dim": 32, "sliding_window": None},
    "gemma3": {**_GATED, "model_type": "gemma3_text", "head_dim": 32, "sliding_window": None},
    "qwen2": {**_GATED, "model_type": "qwen2", "tie_word_embeddings": False},
    "qwen2-tied": {**_GATED, "model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {**_GATED, "model_type": "qwen3", "head_dim": 32, "tie_word_embeddings": True},
}  # fmt: skip


def write_config(folder: Path, config: dict[str, Any] | str) -> Path:
    """Write a configuration, or a text in its place; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    return path


_JUNK: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 7, 10**30, 10**400, 2.5, float("nan"), float("inf"), "", "64",
    "\ud800\n\x1b[31m", "x" * 10_000, [], [64], {}, {"a": {"b": [1] * 50}}, "float16", "llama",
)  # fmt: skip
_ODD_KEYS = (
    *("text_config", "quantization_config", "num_experts", "kv_lora_rank", "sliding_window"),
    *("use_sliding_window", "dtype", "multi_query", "rope_scaling", "rope_parameters", "head_dim"),
    *("is_encoder_decoder", "use_bias", "mlp_bias", "attention_bias", "num_key_value_heads"),
)


def mutate(config: dict[str, Any], random_: random.Random) -> dict[str, Any] | str:
    """The configuration with one to three keys dropped or changed, or its text cut or garbled."""
    changed = dict(config)
    for _ in range(random_.randint(1, 3)):
        key = random_.choice([*config, *_ODD_KEYS])
        if random_.random() < 0.2:
            changed.pop(key, None)
        else:
            changed[key] = random_.choice(_JUNK)
    if random_.random() < 0.1:
        text = json.dumps(changed)
        at = random_.randrange(len(text))
        return text[:at] + random_.choice(["", "[" * 5000, "\x00", "}", '"']) + text[at + 1 :]
    return changed
