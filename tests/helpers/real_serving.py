"""Checkpoints, the tokens of transformers, and engines over them, for the tests beside this file.

Weights are drawn large (standard deviation 0.2), so that the logits' gaps are far above rounding:
systems and batches add in different orders, and no comparison here allows for that.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from engines.core.clock import VirtualClock
from engines.core.config import EngineConfig
from engines.core.engine import Engine
from engines.core.request import Request, SequenceGroup
from engines.core.sampling import SamplingParams
from engines.core.stats import StepRecorder
from engines.execution.setup import LoadedModel, load
from engines.execution.torch_executor import Options
from engines.systems import create_scheduler

VOCAB = 97
MAX_LEN = 64
EOS = (61, 95)  # what the tiny OPT sometimes chooses

_COMMON = {
    "vocab_size": VOCAB, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": MAX_LEN, "attn_implementation": "eager", "eos_token_id": list(EOS),
}  # fmt: skip
_WIDE = {**_COMMON, "hidden_size": 256, "num_attention_heads": 4}
CONFIGS = {
    "opt": lambda: transformers.OPTConfig(**_COMMON, ffn_dim=160, init_std=0.2),
    "llama": lambda: transformers.LlamaConfig(
        **_COMMON, intermediate_size=160, initializer_range=0.2, num_key_value_heads=1
    ),
    # With enough heads for four ranks; two of these share each of LLaMA's KV heads.
    "opt-wide": lambda: transformers.OPTConfig(**_WIDE, ffn_dim=160, init_std=0.2),
    "llama-wide": lambda: transformers.LlamaConfig(
        **_WIDE, intermediate_size=160, initializer_range=0.2, num_key_value_heads=2
    ),
}


@dataclass(frozen=True)
class Pair:
    """One checkpoint, as transformers sees it and as we do."""

    reference: Any
    directory: Path
    loaded: LoadedModel


@functools.cache
def checkpoint(kind: str) -> Pair:
    """Make a random checkpoint; kept for the session."""
    torch.manual_seed(7)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[kind]()).eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.data.normal_(1.0 if name.endswith("norm.weight") else 0.0, 0.1)
    directory = Path(tempfile.mkdtemp(prefix=f"tiny-{kind}-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    model.save_pretrained(directory)
    return Pair(model, directory, load(str(directory), device="cpu"))


@functools.cache
def expected(
    kind: str, prompt: tuple[int, ...], length: int, *, beams: int = 1, eos: bool = False
) -> list[list[int]]:
    """The tokens of transformers, of beams the best first; with `eos` they may end early."""
    reference = checkpoint(kind).reference
    if eos:
        ends = list(EOS)
        return generate(reference, prompt, length, beams=beams, pad=VOCAB, eos_token_id=ends)
    return generate(
        reference, prompt, length, beams=beams, min_new_tokens=length, eos_token_id=None
    )


def generate(
    model: Any,
    prompt: Sequence[int],
    length: int,
    *,
    beams: int = 1,
    pad: int | None = None,
    **settings: Any,
) -> list[list[int]]:
    """What a model of transformers generates, of beams the best first, without `pad` tokens."""
    rows = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        num_beams=beams,
        num_return_sequences=beams,
        max_new_tokens=length,
        **({} if pad is None else {"pad_token_id": pad}),
        **settings,
    )
    return [[t for t in row if t != pad] for row in rows[:, len(prompt) :].tolist()]


def request(
    index: int,
    prompt: Sequence[int],
    length: int,
    *,
    sampling: SamplingParams | None = None,
    prefix_len: int = 0,
    arrival: int = 0,
) -> Request:
    """A request whose arrival is counted in steps."""
    return Request(
        index,
        float(arrival),
        len(prompt),
        length,
        sampling or SamplingParams(),
        prefix_len,
        tuple(prompt),
    )


def engine_over(pair: Pair, config: EngineConfig, *, seed: int = 0) -> Engine:
    """An engine of one system over a checkpoint."""
    return engine_over_model(pair.loaded, config, seed=seed)


def engine_over_model(loaded: Any, config: EngineConfig, *, seed: int = 0) -> Engine:
    """An engine of one system over a model, in one piece or in slices."""
    config = replace(config, max_model_len=MAX_LEN)
    executor = loaded.executor(config, options=Options(seed=seed, logprobs=True))
    recorder = StepRecorder(0.0, 0.0)
    return Engine(create_scheduler(config), executor, VirtualClock(), recorder=recorder)


def serve(engine: Engine, requests: Iterable[Request]) -> dict[int, SequenceGroup]:
    """Serve to the end, each request arriving at its step; checks the cache's books throughout."""
    waiting = sorted(requests, key=lambda r: r.arrival_s)
    finished: dict[int, SequenceGroup] = {}
    step = 0
    while waiting or engine.has_work:
        while waiting and (waiting[0].arrival_s <= step or not engine.has_work):
            engine.add_request(waiting.pop(0))
        for group in engine.step():
            finished[group.request.request_id] = group
        engine.scheduler.kv.check_integrity()
        step += 1
    return finished


def tokens(groups: dict[int, SequenceGroup]) -> dict[int, list[list[int]]]:
    """Every request's outputs."""
    return {i: [s.output_token_ids for s in group.sequences] for i, group in groups.items()}


def all_expected(
    kind: str, requests: Iterable[Request], *, eos: bool = False
) -> Iterator[tuple[int, list[list[int]]]]:
    """What transformers makes of requests, by id."""
    for r in requests:
        assert r.prompt_token_ids is not None
        beams = r.sampling.n if r.sampling.beam else 1
        yield r.request_id, expected(kind, r.prompt_token_ids, r.output_len, beams=beams, eos=eos)
