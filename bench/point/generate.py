"""Given prompts through an engine that runs a model: tokens and their probabilities."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
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

_KEYS = ("prompt_token_ids", "max_tokens", "sampling", "temperature", "top_p", "ignore_eos")


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
    del on_progress
    _check_vocabulary(job, platform)
    widest = max((r.sampling for r in job.requests), key=lambda sampling: sampling.n)
    config = engine_config(spec, platform, widest)
    executor = platform.executor(config, logprobs=True)
    recorder = StepRecorder(0.0, 0.0)
    engine = Engine(create_scheduler(config), executor, platform.clock(), recorder=recorder)
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
    for name in values:
        if name not in _KEYS:
            raise unknown_name("key", name, _KEYS)
    prompt = values.get("prompt_token_ids")
    if not (isinstance(prompt, list) and prompt and all(_is_count(token) for token in prompt)):
        raise UserError(f"prompt_token_ids must be a list of token ids, got {prompt!r:.60}")
    max_tokens: Any = values.get("max_tokens")
    if not _is_count(max_tokens) or max_tokens == 0:
        raise UserError(f"max_tokens must be a positive integer, got {max_tokens!r}")
    return Request(
        request_id=index,
        arrival_s=0.0,
        prompt_len=len(prompt),
        output_len=max_tokens,
        sampling=_sampling(values),
        prefix_len=0,
        prompt_token_ids=tuple(prompt),
    )


def _sampling(values: Mapping[str, Any]) -> SamplingParams:
    name = values.get("sampling", "n1")
    if not isinstance(name, str):
        raise UserError(f"sampling must be a name such as n1 or beam4, got {name!r}")
    sampling = SamplingParams.parse(name)
    given = [key for key in ("temperature", "top_p") if key in values]
    numbers: dict[str, Any] = {key: _number(key, values[key]) for key in given}
    ignore_eos = values.get("ignore_eos", sampling.ignore_eos)
    if not isinstance(ignore_eos, bool):
        raise UserError(f"ignore_eos must be true or false, got {ignore_eos!r}")
    if sampling.beam and numbers.get("temperature"):
        raise UserError(f"beam search does not sample: temperature {numbers['temperature']:g}")
    return replace(sampling, **numbers, ignore_eos=ignore_eos)


def _number(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{key} must be a number, got {value!r}")
    try:
        return float(value)
    except OverflowError:
        raise UserError(f"{key} must be a number below 1e308, got {value!r:.60}") from None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


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
