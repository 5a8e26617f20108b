"""Given prompts through an engine that runs a model: tokens and their probabilities."""

from __future__ import annotations

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
from bench.records import RecordError, parse_object
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
class Prompt:
    """A request, where it comes from, for errors, and whether it was given as a text."""

    request: Request
    origin: str
    is_text: bool


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


def read_prompts(lines: Iterable[tuple[str, str]], tokenizer: Tokenizer) -> list[Prompt]:
    """Read requests, each a place and a JSON object; raises UserError with the place."""
    prompts = []
    for index, (origin, line) in enumerate(lines):
        try:
            values = _parse(line)
            request = _request(values, index, tokenizer)
        except (UserError, RecordError) as error:
            raise UserError(f"{origin}: {error}") from None
        prompts.append(Prompt(request, origin, is_text="prompt" in values))
    return prompts


def generate(
    spec: PointSpec, prompts: Sequence[Prompt], *, ray: str = "local"
) -> list[SequenceGroup]:
    """Serve all prompts, which arrive at once; returns their groups in the same order.

    A model in slices runs on the cluster `ray`. Raises UserError with the line for a request that
    the engine cannot serve, or for a setting of the checkpoint that is not supported, and
    LostWorkerError if a process dies that holds a slice.
    """
    if is_path(spec.model):
        require_plain_choice(spec.model, beams=any(p.request.sampling.beam for p in prompts))
    if needs_ranks(spec, ray=ray):
        return run_on_ranks(_generate_on, spec, prompts, ray=ray)
    with closing(load_platform(spec)) as platform:
        return _generate_on(platform, spec, prompts)


def _generate_on(
    platform: ModelPlatform,
    spec: PointSpec,
    prompts: Sequence[Prompt],
    *,
    on_progress: Progress | None = None,
) -> list[SequenceGroup]:
    from engines.execution.torch_executor import Options

    del on_progress
    _check_vocabulary(prompts, platform)
    widest = max((p.request.sampling for p in prompts), key=lambda sampling: sampling.n)
    config = engine_config(spec, platform, widest)
    executor = platform.loaded.executor(config, options=Options(seed=spec.seed, logprobs=True))
    recorder = StepRecorder(0.0, 0.0)
    engine = Engine(create_scheduler(config), executor, platform.create_clock(), recorder=recorder)
    groups = []
    for prompt in prompts:
        try:
            groups.append(engine.add_request(prompt.request))
        except UserError as error:
            raise UserError(f"{prompt.origin}: {error}") from None
    while engine.has_work:
        engine.step()
    for prompt, group in zip(prompts, groups, strict=True):
        if not all(math.isfinite(s.cumulative_logprob) for s in group.sequences):
            raise UserError(
                f"{prompt.origin}: {platform.model.name} gives no finite probabilities: its "
                f"weights are damaged, or too large for {platform.loaded.dtype_name}"
            )
    return groups


def _parse(line: str) -> dict[str, Any]:
    """Read a request's values; what is there is of the right kind."""
    values = parse_object(line)
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


def _check_vocabulary(prompts: Sequence[Prompt], platform: ModelPlatform) -> None:
    size = platform.model.vocab_size
    for prompt in prompts:
        assert prompt.request.prompt_token_ids is not None, "requests of a file have tokens"
        largest = max(prompt.request.prompt_token_ids)
        if largest >= size:
            raise UserError(
                f"{prompt.origin}: token id {largest} is beyond the vocabulary of {size} of "
                f"{platform.model.name}"
            )


def outputs_of(
    prompts: Sequence[Prompt], groups: Sequence[SequenceGroup], tokenizer: Tokenizer
) -> Iterator[list[dict[str, Any]]]:
    """Each prompt's outputs, as the contract of `bench generate --json` says; with their text
    where the prompt is one. Of beams the best first."""
    for prompt, group in zip(prompts, groups, strict=True):
        ids = prompt.request.prompt_token_ids or ()
        yield [
            {"token_ids": s.output_token_ids, "cumulative_logprob": s.cumulative_logprob}
            | ({"text": tokenizer.continuation(ids, s.output_token_ids)} if prompt.is_text else {})
            for s in group.sequences
        ]
