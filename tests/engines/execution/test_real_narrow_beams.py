"""Beam search where few tokens can go on: transformers' outputs, or one line if too few."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from real_serving import engine_over_model, generate, request, serve, tokens

from engines.core.config import EngineConfig, System
from engines.core.errors import UserError
from engines.core.sampling import SamplingParams
from engines.execution.setup import load

PROMPT = (0, 0)
CONFIGS = {
    "astra": EngineConfig(system=System.ASTRA, num_slots=1024, block_size=4),
    "orca": EngineConfig(system=System.ORCA_MAX, num_slots=1024),
    "ft": EngineConfig(system=System.FT, num_slots=1024, max_batch_size=2),
}


def make(directory: Path, vocab_size: int, ends: list[int]) -> None:
    torch.manual_seed(vocab_size)
    config = transformers.OPTConfig(
        vocab_size=vocab_size, hidden_size=128, num_hidden_layers=1, num_attention_heads=2,
        ffn_dim=16, max_position_embeddings=64, init_std=0.2, eos_token_id=ends or None,
        pad_token_id=None, attn_implementation="eager",
    )  # fmt: skip
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(directory)


def search(directory: Path, system: str, beams: int, length: int) -> list[list[int]]:
    sampling = SamplingParams(n=beams, beam=True, ignore_eos=False)
    engine = engine_over_model(load(str(directory), device="cpu"), CONFIGS[system])
    return tokens(serve(engine, [request(0, PROMPT, length, sampling=sampling)]))[0]


# vocabulary, tokens that end a sequence, beams, length
NARROW = [
    (7, 0, 8, 5),  # the first step has fewer tokens than beams
    (2, 0, 8, 6),
    (2, 0, 8, 3),  # as many outputs as there are at all
    (2, 1, 4, 9),  # one beam lives
    (3, 2, 5, 7),
    (101, 98, 8, 6),
    (101, 100, 8, 6),
    (12, 10, 8, 1),
]


@pytest.mark.parametrize("system", CONFIGS)
@pytest.mark.parametrize(("vocab_size", "num_ends", "beams", "length"), NARROW)
def test_narrow_searches_give_transformers_outputs(
    tmp_path: Path, system: str, vocab_size: int, num_ends: int, beams: int, length: int
) -> None:
    make(tmp_path, vocab_size, list(range(vocab_size - num_ends, vocab_size)))
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    wanted = generate(model, PROMPT, length, beams=beams, pad=vocab_size)
    assert search(tmp_path, system, beams, length) == wanted


@pytest.mark.parametrize("system", CONFIGS)
@pytest.mark.parametrize(
    ("vocab_size", "num_ends", "beams", "length", "found"),
    [(1, 0, 2, 5, 1), (1, 1, 2, 5, 1), (7, 0, 8, 1, 7), (2, 2, 3, 4, 2), (2, 1, 8, 3, 4)],
)
def test_too_few_outputs_are_one_line(
    tmp_path: Path, system: str, vocab_size: int, num_ends: int, beams: int, length: int, found: int
) -> None:
    make(tmp_path, vocab_size, list(range(vocab_size - num_ends, vocab_size)))
    line = f"beam search of width {beams} has only {found} different outputs to give: ask for fewer"
    with pytest.raises(UserError, match=line):
        search(tmp_path, system, beams, length)
