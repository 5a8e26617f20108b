"""What a checkpoint says about choosing tokens is followed as transformers does, or refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from real_serving import checkpoint, engine_over_model, generate, request, serve, tokens
from safetensors.torch import load_file, save_file

from engines.core.config import EngineConfig, System
from engines.core.errors import UserError
from engines.core.sampling import SamplingParams
from engines.execution.setup import load
from engines.models.generation import end_token_ids, require_plain_choice

PROMPT = (5, 17, 3, 88)
LENGTH = 20
ASTRA = EngineConfig(system=System.ASTRA, num_slots=2048)


@pytest.fixture(params=["opt", "llama"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A checkpoint that a test may change; it names no tokens that end a sequence."""
    copy = Path(shutil.copytree(checkpoint(request.param).directory, tmp_path / "copy"))
    change(copy / "config.json", eos_token_id=None)
    (copy / "generation_config.json").unlink()
    return copy


def change(file: Path, **values: object) -> None:
    found = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(found | values))


def ours(directory: Path, beams: int = 1) -> list[list[int]]:
    sampling = replace(SamplingParams.parse(f"beam{beams}"), ignore_eos=False)
    engine = engine_over_model(load(str(directory), device="cpu"), ASTRA)
    return tokens(serve(engine, [request(0, PROMPT, LENGTH, sampling=sampling)]))[0]


def theirs(directory: Path, beams: int = 1) -> list[list[int]]:
    """What transformers makes of the directory, with nothing said but beams and length."""
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    unused = model.config.vocab_size
    return generate(model, PROMPT, LENGTH, beams=beams, pad=unused)


@pytest.mark.parametrize("beams", [1, 3])
def test_end_tokens_are_those_that_transformers_takes(directory: Path, beams: int) -> None:
    (whole, *_) = ours(directory, beams)
    assert len(whole) == LENGTH
    first, second = whole[6], whole[11]
    config, generation = directory / "config.json", directory / "generation_config.json"
    change(config, eos_token_id=first)
    early = ours(directory, beams)
    assert early == theirs(directory, beams) != [whole]
    for end in ([second], second, [96, second, second, 10**6, -1], None, []):
        generation.write_text(json.dumps({"eos_token_id": end, "pad_token_id": 1, "top_k": 3}))
        outputs = ours(directory, beams)
        assert outputs == theirs(directory, beams), end
        assert (min(map(len, outputs)) < LENGTH) == bool(end)
    generation.write_text("{}")  # it alone counts, though it says nothing
    assert ours(directory, beams) == theirs(directory, beams)


@pytest.mark.parametrize("end", [True, "2", 2.0, [2, None], [[2]], {"id": 2}, 1 << 31])
def test_end_tokens_that_are_no_ids(tmp_path: Path, end: object) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": end}))
    with pytest.raises(UserError, match=r"generation_config\.json: eos_token_id must be token ids"):
        end_token_ids(tmp_path)


CHANGES_TOKENS = {
    "repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_length": 12, "min_new_tokens": 9,
    "suppress_tokens": [3], "forced_eos_token_id": 3, "sequence_bias": [[[3], 50.0]],
    "guidance_scale": 2.0, "bad_words_ids": [[3]], "stop_strings": ["a"],
    "watermarking_config": {"greenlist_ratio": 0.25}, "exponential_decay_length_penalty": [2, 1.5],
}  # fmt: skip
CHANGES_BEAMS = {"length_penalty": 2.0, "early_stopping": True}
CHANGES_NOTHING = {
    "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_length": 0, "suppress_tokens": None,
    "temperature": 0.6, "top_p": 0.9, "top_k": 3, "do_sample": True, "num_beams": 4,
    "max_length": 6, "use_cache": False, "renormalize_logits": True, "length_penalty": 1.0,
    "early_stopping": False, "min_p": 0.3, "bos_token_id": 3,
}  # fmt: skip


@pytest.mark.parametrize("name", ["generation_config.json", "config.json"])
@pytest.mark.parametrize("beams", [False, True])
def test_other_ways_to_choose_tokens_are_refused(tmp_path: Path, name: str, beams: bool) -> None:
    file = tmp_path / name
    for key, value in (CHANGES_TOKENS | (CHANGES_BEAMS if beams else {})).items():
        file.write_text(json.dumps(CHANGES_NOTHING | {key: value}))
        with pytest.raises(UserError, match=rf"{name}: {key} .* is not supported"):
            require_plain_choice(tmp_path, beams=beams)
    file.write_text(json.dumps(CHANGES_NOTHING | ({} if beams else CHANGES_BEAMS)))
    require_plain_choice(tmp_path, beams=beams)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.filterwarnings("ignore")  # of settings for sampling that it does not use
def test_settings_that_are_ignored_change_nothing(directory: Path, beams: int) -> None:
    before = ours(directory, beams)
    change(directory / "generation_config.json", **CHANGES_NOTHING)
    assert ours(directory, beams) == theirs(directory, beams) == before


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(UserError, match=r"generation_config\.json is not valid JSON"):
        end_token_ids(tmp_path)


@pytest.mark.parametrize("stored", ["same", "other", "head alone"])
def test_the_file_decides_whether_the_head_is_tied(directory: Path, stored: str) -> None:
    change(directory / "config.json", tie_word_embeddings=True)
    file = directory / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("embed_tokens.weight"))
    other = torch.randn(tensors[name].shape, generator=torch.Generator().manual_seed(0)) * 0.2
    tensors.pop("lm_head.weight", None)
    save_file(tensors, file, metadata={"format": "pt"})
    tied = ours(directory)
    tensors["lm_head.weight"] = tensors[name].clone() if stored == "same" else other
    if stored == "head alone":
        del tensors[name]
    save_file(tensors, file, metadata={"format": "pt"})
    outputs = ours(directory)
    assert outputs == theirs(directory)
    assert (outputs == tied) == (stored == "same")
