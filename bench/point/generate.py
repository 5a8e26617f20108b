"""Given prompts through an engine that runs a model: tokens and their probabilities."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.point.model import ModelPlatform, load_platform, needs_ranks, run_on_ranks
from bench.point.platform import Progress
from bench.point.setting import engine_config
from bench.point.spec import PointSpec
from bench.point.text import Tokenizer
from engines.core.engine import Engine
from engines.core.errors import UserError, unknown_name
from engines.core.models import is_path
from engines.core.request import Request
from engines.core.sampling import SamplingParams
from engines.core.stats import StepRecorder
from engines.core.text import shown
from engines.models.generation import require_plain_choice
from engines.systems import create_scheduler

if TYPE_CHECKING:
    from engines.core.request import SequenceGroup


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and not abs(value) > sys.float_info.max


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)


# What a request may say: what each value must be, and whether it is.
_KEYS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "prompt": ("a text", _is_text),
    "prompt_token_ids": (
        "a list of token ids",
        lambda value: isinstance(value, list) and bool(value) and all(map(_is_count, value)),
    ),
    "max_tokens": ("a positive integer", lambda value: _is_count(value) and value > 0),
    "sampling": ("a name such as n1 or beam4", lambda value: isinstance(value, str)),
    "temperature": ("a number below 1e308", _is_number),
    "top_p": ("a number below 1e308", _is_number),
    "ignore_eos": ("true or false", lambda value: isinstance(value, bool)),
}


@dataclass(frozen=True)
class Job:
    """The requests of a run: where each comes from, and whether its prompt is a text."""

    requests: tuple[Request, ...]
    origins: tuple[str, ...]
    texts: tuple[bool, ...]

    def origin(self, request: Request) -> str:
        """Where a request comes from, for errors."""
        return self.origins[request.request_id]


def read_lines(path: Path) -> list[tuple[str, str]]:
    """Return place and text of each line that is not empty; raises UserError."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # JSON may hold other line breaks
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    found = [(f"{path} line {i}", line) for i, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise UserError(f"{path} holds no request: write one JSON object a line")
    return found


def read_job(lines: Iterable[tuple[str, str]], tokenizer: Tokenizer) -> Job:
    """Read requests, each a place and a JSON object; raises UserError with the place."""
    requests, origins, texts = [], [], []
    for index, (origin, line) in enumerate(lines):
        try:
            values = _parse(line)
            requests.append(_request(values, index, tokenizer))
        except UserError as error:
            raise UserError(f"{origin}: {error}") from None
        origins.append(origin)
        texts.append("prompt" in values)
    return Job(tuple(requests), tuple(origins), tuple(texts))


def generate(spec: PointSpec, job: Job, *, ray: str = "local") -> list[SequenceGroup]:
    """Serve all prompts, which arrive at once; returns their groups in the file's order.

    A model in slices runs on the cluster `ray`. Raises UserError with the line for a request that
    the engine cannot serve, or for a setting of the checkpoint that is not supported, and
    LostWorkerError if a process dies that holds a slice.
    """
    if is_path(spec.model):
        require_plain_choice(spec.model, beams=any(r.sampling.beam for r in job.requests))
    if needs_ranks(spec, ray=ray):
        return run_on_ranks(_generate_on, spec, job, ray=ray)
    with closing(load_platform(spec)) as platform:
        return _generate_on(platform, spec, job)


def _generate_on(
    platform: ModelPlatform, spec: PointSpec, job: Job, *, on_progress: Progress | None = None
) -> list[SequenceGroup]:
    from engines.execution.torch_executor import Options

    del on_progress
    _check_vocabulary(job, platform)
    widest = max((r.sampling for r in job.requests), key=lambda sampling: sampling.n)
    config = engine_config(spec, platform, widest)
    executor = platform.loaded.executor(config, options=Options(seed=spec.seed, logprobs=True))
    recorder = StepRecorder(0.0, 0.0)
    engine = Engine(create_scheduler(config), executor, platform.create_clock(), recorder=recorder)
    groups = []
    for request in job.requests:
        try:
            groups.append(engine.add_request(request))
        except UserError as error:
            raise UserError(f"{job.origin(request)}: {error}") from None
    while engine.has_work:
        engine.step()
    for request, group in zip(job.requests, groups, strict=True):
        if not all(math.isfinite(s.cumulative_logprob) for s in group.sequences):
            raise UserError(
                f"{job.origin(request)}: {platform.model.name} gives no finite probabilities: its "
                f"weights are damaged, or too large for {platform.loaded.dtype_name}"
            )
    return groups


def _parse(line: str) -> dict[str, Any]:
    """Read a request's values; what is there is of the right kind."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"expected a JSON object, got {type(values).__name__}")
    if ("prompt" in values) == ("prompt_token_ids" in values):
        raise UserError("give either prompt_token_ids, a list of token ids, or prompt, a text")
    for name, value in ({"max_tokens": None} | values).items():
        if name not in _KEYS:
            raise unknown_name("key", name, _KEYS)
        kind, holds = _KEYS[name]
        if not holds(value):
            raise UserError(f"{name} must be {kind}, got {shown(value)}")
    return values


def _request(values: Mapping[str, Any], index: int, tokenizer: Tokenizer) -> Request:
    sampling = _sampling(values)
    is_text = "prompt" in values
    prompt = tokenizer.encode(values["prompt"]) if is_text else values["prompt_token_ids"]
    if not prompt:
        raise UserError("the prompt is empty: it has no tokens")
    return Request(
        request_id=index,
        arrival_s=0.0,
        prompt_len=len(prompt),
        output_len=values["max_tokens"],
        sampling=sampling,
        prompt_token_ids=tuple(prompt),
    )


def _sampling(values: Mapping[str, Any]) -> SamplingParams:
    sampling = SamplingParams.parse(values.get("sampling", "n1"))
    given = [key for key in ("temperature", "top_p") if key in values]
    numbers: dict[str, Any] = {key: float(values[key]) for key in given}
    if sampling.beam and numbers.get("temperature"):
        raise UserError(f"beam search does not sample: temperature {numbers['temperature']:g}")
    if numbers.get("top_p", 1.0) != 1 and not numbers.get("temperature", sampling.temperature):
        raise UserError(f"top_p {numbers['top_p']:g} counts only with a temperature above 0")
    # Text that goes on after its end is of no use to its reader.
    return replace(sampling, **numbers, ignore_eos=values.get("ignore_eos", "prompt" not in values))


def _check_vocabulary(job: Job, platform: ModelPlatform) -> None:
    size = platform.model.vocab_size
    for request in job.requests:
        assert request.prompt_token_ids is not None, "requests of a file have tokens"
        largest = max(request.prompt_token_ids)
        if largest >= size:
            raise UserError(
                f"{job.origin(request)}: token id {largest} is beyond the vocabulary of {size} of "
                f"{platform.model.name}"
            )


def outputs_of(
    job: Job, groups: Sequence[SequenceGroup], tokenizer: Tokenizer
) -> Iterator[list[dict[str, Any]]]:
    """Each request's outputs, as the contract of `bench generate --json` says; with their text
    where the prompt is one. Of beams the best first."""
    for request, is_text, group in zip(job.requests, job.texts, groups, strict=True):
        prompt = request.prompt_token_ids or ()
        yield [
            {"token_ids": s.output_token_ids, "cumulative_logprob": s.cumulative_logprob}
            | ({"text": tokenizer.continuation(prompt, s.output_token_ids)} if is_text else {})
            for s in group.sequences
        ]
