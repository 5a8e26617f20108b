"""Those that serve the same model in `make benchmark-models`, each in a process of its own.

A process loads its model once and then serves the whole job whenever it is asked to, so that runs
of all contestants can be interleaved and none's idle threads disturb another.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks import environments, outside
from engines.core.errors import UserError

CONVERTED = "ctranslate2"  # beside the checkpoint
TRANSFORMERS_BATCH = 16
FIRST_TOKEN = 4  # below are padding, begin, end and unknown
HOST_CONTEXT_LEN, HOST_STEPS = 128, 30


@dataclass(frozen=True)
class Job:
    """Prompts and how many tokens each one gets, whatever they are."""

    prompts: tuple[tuple[int, ...], ...]
    output_lens: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens to make."""
        return sum(self.output_lens)

    def first(self, count: int) -> Job:
        """The job of the first requests only."""
        return Job(self.prompts[:count], self.output_lens[:count])


@dataclass(frozen=True)
class Setup:
    """What all contestants share, and each one's settings."""

    checkpoint: Path
    threads: int
    block_size: int
    host_seqs: int
    dtype: str = "float32"


class Contestant(Protocol):
    """Serves jobs."""

    def serve(self, job: Job) -> None:
        """Make every token of a job; asserts that they are as many as asked for."""


class Ours:
    """Astra on the CPU: all requests at once, iteration-level batching."""

    def __init__(self, setup: Setup) -> None:
        import torch

        from engines.execution.setup import load

        torch.set_num_threads(setup.threads)
        self._setup = setup
        self._loaded = load(str(setup.checkpoint), device="cpu", dtype=setup.dtype)
        if not self._loaded.kernels.compiled:
            raise UserError("no compiled CPU kernels: run python -m engines.kernels.build")

    def serve(self, job: Job) -> None:
        """See `Contestant.serve`."""
        from engines.core.config import EngineConfig, System
        from engines.core.request import Request
        from engines.execution.probe import build_engine, serve

        size = self._setup.block_size
        lens = [len(p) + n for p, n in zip(job.prompts, job.output_lens, strict=True)]
        config = EngineConfig(
            system=System.ASTRA,
            num_slots=size * sum(-(-n // size) for n in lens),
            block_size=size,
            max_model_len=self._loaded.spec.max_positions,
            watermark=0.0,
        )
        engine, _ = build_engine(self._loaded.model, self._loaded.kernels, config)
        requests = [
            Request(i, 0.0, len(prompt), n, prompt_token_ids=prompt)
            for i, (prompt, n) in enumerate(zip(job.prompts, job.output_lens, strict=True))
        ]
        outputs = serve(engine, requests)
        assert [len(one[0]) for one in outputs] == list(job.output_lens), "lengths are forced"

    def measure_host(self) -> tuple[float, float]:
        """Seconds of a decode step, and of it outside the model."""
        from engines.execution.probe import time_decode_steps

        context_len = min(HOST_CONTEXT_LEN, self._loaded.spec.max_positions // 4)
        times = time_decode_steps(
            self._loaded.model,
            self._loaded.kernels,
            num_seqs=self._setup.host_seqs,
            context_len=context_len,
            steps=min(HOST_STEPS, context_len),
        )
        return times.median_s, times.host_s


class Transformers:
    """`generate` over batches in order of arrival, padded on the left; each to its longest."""

    def __init__(self, setup: Setup) -> None:
        import torch
        import transformers

        torch.set_num_threads(setup.threads)
        transformers.utils.logging.disable_progress_bar()
        auto: Any = transformers.AutoModelForCausalLM
        self._model = auto.from_pretrained(
            setup.checkpoint, dtype=getattr(torch, setup.dtype)
        ).eval()

    def serve(self, job: Job) -> None:
        """See `Contestant.serve`."""
        for start in range(0, len(job.prompts), TRANSFORMERS_BATCH):
            part = slice(start, start + TRANSFORMERS_BATCH)
            self._serve_batch(job.prompts[part], max(job.output_lens[part]))

    def _serve_batch(self, prompts: Sequence[tuple[int, ...]], longest: int) -> None:
        import torch

        width = max(map(len, prompts))
        padding = [width - len(prompt) for prompt in prompts]
        ids = torch.tensor([[1] * n + list(p) for n, p in zip(padding, prompts, strict=True)])
        mask = torch.tensor([[0] * n + [1] * (width - n) for n in padding])
        made = self._model.generate(
            ids, attention_mask=mask, do_sample=False, max_new_tokens=longest,
            min_new_tokens=longest, pad_token_id=1,
        )  # fmt: skip
        assert made.shape == (len(prompts), width + longest), "lengths are forced"


class CTranslate2:
    """Replicas of one thread each over a pool of batches; an output ends at its own length."""

    compute_type = "float32"
    max_batch = 32  # requests in a batch that a replica takes

    def __init__(self, setup: Setup) -> None:
        ctranslate2: Any = importlib.import_module("ctranslate2")
        self._generator = ctranslate2.Generator(
            str(setup.checkpoint / CONVERTED),
            device="cpu",
            compute_type=self.compute_type,
            inter_threads=setup.threads,
            intra_threads=1,
        )
        words = (setup.checkpoint / "words.json").read_text(encoding="utf-8")
        self._words: list[str] = json.loads(words)

    def serve(self, job: Job) -> None:
        """See `Contestant.serve`."""
        prompts = [[self._words[token] for token in prompt] for prompt in job.prompts]
        output_lens, counts = job.output_lens, [0] * len(prompts)
        longest = max(output_lens)

        def ends(step: Any) -> bool:
            counts[step.batch_id] += 1
            return bool(counts[step.batch_id] >= output_lens[step.batch_id])

        self._generator.generate_batch(
            prompts, max_batch_size=self.max_batch, batch_type="examples",
            beam_size=1, sampling_topk=1, max_length=longest, min_length=longest,
            include_prompt_in_result=False, callback=ends,
        )  # fmt: skip
        assert counts == list(output_lens), "lengths are forced"


class BalancedCTranslate2(CTranslate2):
    """Batches with which two replicas have equally many of 96 requests."""

    max_batch = 48


class Int8(BalancedCTranslate2):
    """CTranslate2 with weights of eight bits: the next mark, at another precision."""

    compute_type = "int8"


class Outside:
    """An engine in an environment of its own; see `benchmarks.outside`."""

    engine: str

    def __init__(self, setup: Setup) -> None:
        python = environments.find(self.engine)
        assert python is not None, "only where the environment is"
        words = (self.engine, str(self._folder(setup)), str(setup.threads), setup.dtype)
        self._process = subprocess.Popen(
            [python, outside.__file__, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def serve(self, job: Job) -> None:
        """See `Contestant.serve`."""
        assert self._process.stdin is not None, "it is a pipe"
        line = json.dumps({"prompts": job.prompts, "output_lens": job.output_lens})
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        self._answer()

    def _folder(self, setup: Setup) -> Path:
        """The model as the engine reads it: the checkpoint itself."""
        return setup.checkpoint

    def _answer(self) -> None:
        assert self._process.stdout is not None, "it is a pipe"
        if not self._process.stdout.readline():
            with self._process:
                pass  # which closes its pipes and waits for its end
            raise UserError(f"its process ended with status {self._process.returncode}")


class OpenVINO(Outside):
    """OpenVINO GenAI, which reads a format of its own."""

    engine = "openvino"

    def _folder(self, setup: Setup) -> Path:
        folder = setup.checkpoint / self.engine
        if not folder.is_dir():
            environments.export(setup.checkpoint, folder)
        return folder


class VLLM(Outside):
    """vLLM's CPU engine, with AMD's plugin."""

    engine = "vllm"


CONTESTANTS: dict[str, Callable[[Setup], Contestant]] = {
    "ours": Ours,
    "transformers": Transformers,
    "ctranslate2-batch32": CTranslate2,
    "ctranslate2-batch48": BalancedCTranslate2,
    "ctranslate2-int8": Int8,
    "openvino": OpenVINO,
    "vllm": VLLM,
}


def available(dtype: str) -> list[str]:
    """Those that can serve a type here: engines with environments of their own where they are made.

    CTranslate2 has BF16 for few processors, so in BF16 its int8 alone competes.
    """
    absent = [name for name in environments.PACKAGES if environments.find(name) is None]
    if dtype != CTranslate2.compute_type:
        absent += ["ctranslate2-batch32", "ctranslate2-batch48"]
    return [name for name in CONTESTANTS if name not in absent]


class Worker:
    """A contestant in a process of its own."""

    def __init__(self, name: str, setup: Setup) -> None:
        self._name = name
        context = multiprocessing.get_context("spawn")
        self._process = ProcessPoolExecutor(max_workers=1, mp_context=context)
        self._ask(_load, name, setup)

    def seconds(self, job: Job) -> float:
        """Serve a job once; returns how long that took."""
        return float(self._ask(_serve, job))

    def measure_host(self) -> tuple[float, float]:
        """Seconds of a decode step, and of it outside the model."""
        step_s, host_s = self._ask(_measure_host)
        return float(step_s), float(host_s)

    def close(self) -> None:
        """End the process."""
        self._process.shutdown()

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return self._process.submit(function, *arguments).result()
        except BrokenProcessPool:
            raise UserError(
                f"the process of {self._name} died (out of memory?): its output says why"
            ) from None
        except UserError as error:
            raise UserError(f"{self._name}: {error}") from None


_loaded: list[Contestant] = []  # of a worker's process: its one contestant


def _load(name: str, setup: Setup) -> None:
    _loaded.append(CONTESTANTS[name](setup))


def _serve(job: Job) -> float:
    started = time.perf_counter()
    _loaded[0].serve(job)
    return time.perf_counter() - started


def _measure_host() -> tuple[float, float]:
    (ours,) = _loaded
    assert isinstance(ours, Ours), "host time is measured of our engine alone"
    return ours.measure_host()
