"""Given prompts through an engine that runs a model: tokens and their probabilities."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.point.model import ModelPlatform, load_platform, needs_ranks, run_on_ranks
from bench.point.platform import Progress
from bench.point.setting import engine_config
from bench.point.spec import PointSpec
from engines.core.engine import Engine
from engines.core.errors import UserError, unknown_name
from engines.core.request import Request, SamplingParams
from engines.core.stats import StepRecorder
from engines.systems import create_scheduler

if TYPE_CHECKING:
    from engines.core.request import SequenceGroup


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and not abs(value) > sys.float_info.max


# What a request may say: what each value must be, and whether it is.
_KEYS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
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
_REQUIRED = {"prompt_token_ids": None, "max_tokens": None}


@dataclass(frozen=True)
class Job:
    """The prompts of a file, and where each stands in it."""

    path: Path
    lines: tuple[int, ...]
    requests: tuple[Request, ...]

    def where(self, request: Request) -> str:
        """File and line of a request."""
        return f"{self.path} line {self.lines[request.request_id]}"


def read_job(path: Path) -> Job:
    """Read one request per line (empty lines do not count); raises UserError with the line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    lines: list[int] = []
    requests: list[Request] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            lines.append(number)
            try:
                requests.append(_parse(line, len(requests)))
            except UserError as error:
                raise UserError(f"{path} line {number}: {error}") from None
    if not requests:
        raise UserError(f"{path} holds no request: write one JSON object a line")
    return Job(path, tuple(lines), tuple(requests))


def generate(spec: PointSpec, job: Job, *, ray: str = "local") -> list[SequenceGroup]:
    """Serve all prompts, which arrive at once; returns their groups in the file's order.

    A model in slices runs on the cluster `ray`. Raises UserError with the line for a request that
    the engine cannot serve, and LostWorkerError if a process dies that holds a slice.
    """
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
            raise UserError(f"{job.where(request)}: {error}") from None
    while engine.has_work:
        engine.step()
    for request, group in zip(job.requests, groups, strict=True):
        if not all(math.isfinite(s.cumulative_logprob) for s in group.sequences):
            raise UserError(
                f"{job.where(request)}: {platform.model.name} gives no finite probabilities: its "
                f"weights are damaged, or too large for {platform.loaded.dtype_name}"
            )
    return groups


def _parse(line: str, index: int) -> Request:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"expected a JSON object, got {type(values).__name__}")
    for name, value in (_REQUIRED | values).items():
        if name not in _KEYS:
            raise unknown_name("key", name, _KEYS)
        kind, holds = _KEYS[name]
        if not holds(value):
            raise UserError(f"{name} must be {kind}, got {value!r:.60}")
    return Request(
        request_id=index,
        arrival_s=0.0,
        prompt_len=len(values["prompt_token_ids"]),
        output_len=values["max_tokens"],
        sampling=_sampling(values),
        prompt_token_ids=tuple(values["prompt_token_ids"]),
    )


def _sampling(values: Mapping[str, Any]) -> SamplingParams:
    sampling = SamplingParams.parse(values.get("sampling", "n1"))
    given = [key for key in ("temperature", "top_p") if key in values]
    numbers: dict[str, Any] = {key: float(values[key]) for key in given}
    if sampling.beam and numbers.get("temperature"):
        raise UserError(f"beam search does not sample: temperature {numbers['temperature']:g}")
    return replace(sampling, **numbers, ignore_eos=values.get("ignore_eos", sampling.ignore_eos))


def _check_vocabulary(job: Job, platform: ModelPlatform) -> None:
    size = platform.model.vocab_size
    for request in job.requests:
        assert request.prompt_token_ids is not None, "requests of a file have tokens"
        largest = max(request.prompt_token_ids)
        if largest >= size:
            raise UserError(
                f"{job.where(request)}: token id {largest} is beyond the vocabulary of {size} of "
                f"{platform.model.name}"
            )


def lines_of(groups: Sequence[SequenceGroup]) -> Iterator[str]:
    """One JSON object a line, as the contract of `bench generate` says."""
    for index, group in enumerate(groups):
        outputs = [
            {"token_ids": s.output_token_ids, "cumulative_logprob": s.cumulative_logprob}
            for s in group.sequences  # of beams the best first
        ]
        yield json.dumps({"index": index, "outputs": outputs}, allow_nan=False)
