"""Ours against other engines on this machine's CPU: `make benchmark-models`.

All serve the same requests of ShareGPT-like lengths with the same random weights of a model shaped
like OPT-125M or SmolLM2-135M in one type on the same number of threads, forced to lengths. Rounds
are interleaved and what counts is the ratio within a round, since a shared machine's speed drifts.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.results.provenance import environment
from bench.workloads.build import build_workload
from benchmarks import environments
from benchmarks.arguments import Arguments, whole
from benchmarks.contestants import (
    CONTESTANTS,
    CONVERTED,
    FIRST_TOKEN,
    Job,
    Setup,
    Worker,
    available,
)
from benchmarks.environments import PACKAGES
from engines.core.errors import UserError

NUM_REQUESTS = 96
INPUT_LENS, MAX_OUTPUT_LEN = (4, 256), 128
WARM_REQUESTS = 16
HOST_SEQS, HOST_LIMIT_PCT = 64, 5.0
# Ours over theirs, at least: over CTranslate2 at whichever of its settings is the better.
TARGETS = {
    "float32": {
        "transformers": 4.0,
        "ctranslate2-batch32": 1.3,
        "ctranslate2-batch48": 1.3,
        "openvino": 1.1,
        "vllm": 1.1,
    },
    "bfloat16": {"openvino": 1.15, "vllm": 1.15},
}
_PACKAGES = ("torch", "transformers", "tokenizers", "ctranslate2")
_TINY = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 512}
# What differs from the defaults of transformers: nothing for OPT-125M.
_SHAPES: dict[str, dict[str, Any]] = {
    "opt": {},
    "llama": {
        "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "vocab_size": 49152,
        "num_key_value_heads": 3, "intermediate_size": 1536, "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
    },
}  # fmt: skip
_TINY_SHAPES: dict[str, dict[str, Any]] = {
    "opt": {**_TINY, "ffn_dim": 256, "word_embed_proj_dim": 128},
    "llama": {**_TINY, "num_key_value_heads": 1, "intermediate_size": 256},
}


@dataclass(frozen=True)
class Result:
    """Seconds of each contestant by round; a decode step of ours and its part on the host."""

    num_tokens: int
    seconds: Mapping[str, tuple[float, ...]]
    step_s: float
    host_s: float
    targets: Mapping[str, float]

    def rate(self, name: str) -> float:
        """Tokens per second, the median round."""
        return self.num_tokens / statistics.median(self.seconds[name])

    def ratio(self, name: str) -> float:
        """How many times as fast ours is: the median over rounds."""
        pairs = zip(self.seconds[name], self.seconds["ours"], strict=True)
        return statistics.median(theirs / ours for theirs, ours in pairs)

    @property
    def host_pct(self) -> float:
        """Share of a decode step outside the model."""
        return 100 * self.host_s / self.step_s

    @property
    def holds(self) -> bool:
        """Whether every target is reached."""
        ratios = all(
            self.ratio(name) >= least
            for name, least in self.targets.items()
            if name in self.seconds
        )
        return ratios and self.host_pct < HOST_LIMIT_PCT


def make_job(num_requests: int, vocab_size: int, *, shrink: int = 1) -> Job:
    """Draw the first requests of ShareGPT whose lengths lie within the limits; seed 0."""
    workload = build_workload("sharegpt", rate=100.0, duration=600.0, seed=0)
    inputs, outputs = workload.input_len, workload.output_len
    fits = (inputs >= INPUT_LENS[0]) & (inputs <= INPUT_LENS[1]) & (outputs <= MAX_OUTPUT_LEN)
    rows = np.flatnonzero(fits)[:num_requests]
    assert len(rows) == num_requests, "the workload holds too few requests of such lengths"
    drawn = np.random.default_rng(0)
    lens = np.maximum(inputs[rows] // shrink, 1)
    prompts = tuple(
        tuple(drawn.integers(FIRST_TOKEN, vocab_size, size=int(n)).tolist()) for n in lens
    )
    return Job(prompts, tuple(int(max(1, n // shrink)) for n in outputs[rows]))


def write_checkpoint(folder: Path, shape: str, *, tiny: bool) -> int:
    """Write a random "opt" or "llama", its words and CTranslate2's copy; returns how many words."""
    import torch
    import transformers

    torch.manual_seed(0)
    transformers.utils.logging.disable_progress_bar()
    sizes = (_TINY_SHAPES if tiny else _SHAPES)[shape]
    config: Any = transformers.AutoConfig.for_model(shape, **sizes)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    words = ["<s>", "<pad>", "</s>", "<unk>"]
    words += [f"word{i}" for i in range(len(words), config.vocab_size)]
    (folder / "words.json").write_text(json.dumps(words), encoding="utf-8")
    _write_tokenizer(folder, words)
    converters: Any = importlib.import_module("ctranslate2.converters")
    converters.TransformersConverter(str(folder)).convert(str(folder / CONVERTED))
    return int(config.vocab_size)


def _write_tokenizer(folder: Path, words: Sequence[str]) -> None:
    """CTranslate2 takes its vocabulary from a tokenizer; this one knows whole words."""
    import transformers

    tokenizers: Any = importlib.import_module("tokenizers")
    vocabulary = {word: i for i, word in enumerate(words)}
    word_level = tokenizers.models.WordLevel(vocabulary, unk_token="<unk>")
    tokenizer: Any = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(word_level),
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    tokenizer.save_pretrained(folder)


def measure(setup: Setup, job: Job, names: Sequence[str], *, rounds: int) -> Result:
    """Run ours and others in turn, after a small job for each that does not count."""
    workers = {name: Worker(name, setup) for name in names}
    try:
        for worker in workers.values():
            worker.seconds(job.first(WARM_REQUESTS))
        seconds: dict[str, list[float]] = {name: [] for name in workers}
        host = []
        for number in range(rounds):
            for name in list(workers) if number % 2 == 0 else reversed(workers):
                seconds[name].append(workers[name].seconds(job))
                rate = job.num_tokens / seconds[name][-1]
                print(f"round {number + 1}: {name:19} {rate:6.1f} tokens/s", file=sys.stderr)
            host.append(workers["ours"].measure_host())
    finally:
        for worker in workers.values():
            worker.close()
    step_s, host_s = sorted(host, key=lambda pair: pair[1] / pair[0])[len(host) // 2]
    times = {name: tuple(s) for name, s in seconds.items()}
    return Result(job.num_tokens, times, step_s, host_s, TARGETS[setup.dtype])


def print_result(result: Result) -> None:
    """Print speeds, ratios with their targets, and the host's part of a decode step."""
    table = Table("", "tokens/s", "rounds", "ours is faster by", "target")
    for name, seconds in result.seconds.items():
        rates = sorted(result.num_tokens / s for s in seconds)
        target = f">= {result.targets[name]:g}x" if name in result.targets else ""
        table.add_row(
            name, f"{result.rate(name):.1f}", f"{rates[0]:.1f}-{rates[-1]:.1f}",
            f"{result.ratio(name):.2f}x", target,
        )  # fmt: skip
    Console().print(table)
    print(
        f"decode step of ours at {HOST_SEQS} sequences: {1e6 * result.step_s:.0f} us, of it "
        f"{1e6 * result.host_s:.0f} us ({result.host_pct:.1f} %) outside the model; target below "
        f"{HOST_LIMIT_PCT:g} %"
    )
    for name in CONTESTANTS:
        if name in PACKAGES and environments.find(name) is None:
            print(f"without {name}: python -m benchmarks.environments {name} makes it ready")
    print("all targets reached" if result.holds else "TARGETS MISSED")


def require_packages() -> None:
    """Raise UserError naming what is not installed."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"the benchmark needs {', '.join(missing)}: pip install --editable '.[benchmark]'"
        )


def choose(dtype: str, against: Sequence[str] | None) -> list[str]:
    """Ours and those that are named, or all there are; raises UserError for one that is not."""
    names = available(dtype)
    if against is None:
        return names
    if absent := [name for name in against if name not in names]:
        raise UserError(f"{', '.join(absent)} cannot serve {dtype} here: {', '.join(names)} can")
    return ["ours", *against]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; exit status 1 if a target is missed, 2 if it cannot be measured."""
    parser = Arguments(description="Ours against other engines on this machine's CPU.")
    parser.add_argument("--dtype", choices=sorted(TARGETS), default="float32")
    parser.add_argument("--shape", choices=sorted(_SHAPES), default="opt")
    parser.add_argument("--threads", type=whole, default=2)
    parser.add_argument("--rounds", type=whole, default=3)
    parser.add_argument(
        "--against",
        nargs="+",
        choices=[*CONTESTANTS][1:],
        metavar="NAME",
        help=f"of {', '.join([*CONTESTANTS][1:])} (default: all there are)",
    )
    parser.add_argument("--block-size", type=whole, default=16, help="ours")
    parser.add_argument("--quick", action="store_true", help="a tiny model, to try the benchmark")
    parser.add_argument("--out", type=Path, help="file for all numbers, with their provenance")
    options = parser.parse_args(arguments)
    try:
        require_packages()
        names = choose(options.dtype, options.against)
        with tempfile.TemporaryDirectory(prefix="benchmark-models-") as name:
            folder = Path(name)
            vocab_size = write_checkpoint(folder, options.shape, tiny=options.quick)
            shrink, count = (8, 8) if options.quick else (1, NUM_REQUESTS)
            job = make_job(count, vocab_size, shrink=shrink)
            setup = Setup(folder, options.threads, options.block_size, HOST_SEQS, options.dtype)
            result = measure(setup, job, names, rounds=options.rounds)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print_result(result)
    if options.out is not None:
        _write(options.out, result, options)
    return 0 if result.holds else 1


def _write(path: Path, result: Result, options: argparse.Namespace) -> None:
    from bench.files import json_bytes, write_file
    from bench.machine import package_version

    record = {
        "settings": {key: str(value) for key, value in vars(options).items()},
        "num_tokens": result.num_tokens,
        "seconds": result.seconds,
        "ratios": {name: result.ratio(name) for name in result.seconds},
        "step_s": result.step_s,
        "host_s": result.host_s,
        "versions": {name: package_version(name) for name in _PACKAGES},
        "environments": {name: pins for name, pins in PACKAGES.items() if name in result.seconds},
        "provenance": environment(),
    }
    write_file(path, json_bytes(record))


if __name__ == "__main__":
    sys.exit(main())
