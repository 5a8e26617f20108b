"""What a checkpoint says about how its tokens are chosen, where that is not by the model alone.

transformers' `generate` takes its defaults from generation_config.json, or from config.json where
there is none. Of these, the end-of-sequence tokens are followed here. What a request says itself
(sampling or not, number of beams, lengths) wins in transformers too, and what concerns sampling
only (top_k, min_p) is left to the request.
"""

from __future__ import annotations

from pathlib import Path
from reprlib import repr as shown
from typing import Any

from engines.core.model_config import ModelConfig, read_config

GENERATION_FILE = "generation_config.json"
# Settings that change greedy tokens or beams, and the value with which each does not.
_NEUTRAL: dict[str, Any] = {
    "repetition_penalty": 1,
    "encoder_repetition_penalty": 1,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": 0,
    "guidance_scale": 1,
    "penalty_alpha": 0,
    "num_beam_groups": 1,
    "token_healing": False,
} | dict.fromkeys(
    (
        *("sequence_bias", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens"),
        *("forced_bos_token_id", "forced_eos_token_id", "exponential_decay_length_penalty"),
        *("watermarking_config", "stop_strings", "max_time", "dola_layers"),
        *("constraints", "force_words_ids"),
    )
)
_NEUTRAL_FOR_BEAMS: dict[str, Any] = {
    "length_penalty": 1,
    "early_stopping": False,
    "diversity_penalty": 0,
}
_MOST_ID = 1 << 31


def end_token_ids(checkpoint: str | Path, config: ModelConfig | None = None) -> tuple[int, ...]:
    """The tokens that end a sequence; raises UserError where they are not token ids.

    `config` is the checkpoint's config.json, where it has been read.
    """
    settings = _settings(checkpoint, config)
    found = settings.get("eos_token_id", default=[])
    ids = found if isinstance(found, list) else [found]
    if not all(type(token) is int and abs(token) < _MOST_ID for token in ids):
        raise settings.error(f"eos_token_id must be token ids, got {shown(found)}")
    return tuple(ids)


def require_plain_choice(checkpoint: str | Path, *, beams: bool) -> None:
    """Raise UserError for a setting with which transformers would choose other tokens than we."""
    settings = _settings(checkpoint)
    for key, neutral in (_NEUTRAL | (_NEUTRAL_FOR_BEAMS if beams else {})).items():
        if (value := settings.values.get(key)) not in (None, neutral):
            raise settings.error(
                f"{key} {shown(value)} is not supported: remove it to choose tokens by the model's "
                "probabilities alone"
            )


def _settings(checkpoint: str | Path, config: ModelConfig | None = None) -> ModelConfig:
    """The file that `generate` takes its defaults from: of a directory, or a config.json."""
    file = Path(checkpoint, GENERATION_FILE)
    return read_config(file) if file.exists() else config or read_config(checkpoint)
