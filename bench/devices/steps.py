"""Chooses which engine steps to measure, so that the steps between them can be interpolated.

It starts from a coarse grid, adds sizes where the interpolation errs in the middle between two, and
measures all again in turn while there is time. A machine's speed changes by the second: so each
turn has its own order, in which the systems take their places too, steps that are compared are
measured side by side, and samples may be held against a piece of work that is timed before, between
and after them.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Protocol

from engines.sim.measured import SHORT
from engines.sim.steps import StepRow

TOLERANCE = 0.03  # by which an interpolated step may err, twice, before one more size is measured
REFINE_SHARE = 0.25  # of the time, at most, goes to finding sizes
PASSES = 12  # over all steps, if there is time; over long prompts, half of these
LONG = 128  # prompt tokens; such a step is as long as many others
LONG_SAMPLES = 2  # at a time
OUTLIER = 1.5  # medians of a step's samples: what one of them counts at most
USUAL_CONTEXT = 64  # tokens of each sequence beside which prompts and choices are measured
SHARED_CONTEXT = 256  # tokens of each sequence, of which nearly all are in blocks that all read
USUAL_OUTPUTS = 4  # of a request whose tokens are drawn
_BESIDE = (1, 8, 24, 64)  # decoding sequences beside which prompts are measured
_COPIED = (1, 8, 64)  # blocks


class Probe(Protocol):
    """What times steps of one system; see `engines.execution.step_probe.StepProbe`."""

    def time_steps(
        self, wanted: StepRow, samples: int, between: Callable[[], object]
    ) -> list[float]:
        """Seconds of steps like `wanted`; none where they do not fit.

        `between` is called before each of them and after the last.
        """

    @property
    def copied_blocks(self) -> int:
        """Blocks that the last step copied."""

    @property
    def shared_tokens(self) -> int:
        """Tokens of the last decode steps in blocks that another sequence reads too."""


@dataclass(frozen=True)
class Scope:
    """Which steps of a system to measure: the largest batch, prompt and context in tokens."""

    system: str
    most_sequences: int
    most_tokens: int
    most_context: int
    max_len: int
    widths: Sequence[int] = ()  # of beam searches
    share: float = 1.0  # of the time in which sizes are found for all systems


def usual_scopes(
    max_len: int, most_context: int, *, most_sequences: int, most_tokens: int
) -> list[Scope]:
    """Of all systems; Astra's batches are the largest, FasterTransformer's the smallest."""
    tokens = min(most_tokens, max_len // 2)
    sizes = {"astra": (128, (2, 4, 6), 0.5), "orca": (64, (4,), 0.3), "ft": (32, (4,), 0.2)}
    return [
        Scope(system, min(most, most_sequences), tokens, most_context, max_len, widths, share)
        for system, (most, widths, share) in sizes.items()
    ]


@dataclass
class Measurements:
    """Samples of steps by what they are, and the time that is left for more.

    `tell` hears the time (s, of `now`) after each step that is measured.
    """

    probes: Mapping[str, Probe]
    samples: int
    now: Callable[[], float]
    tell: Callable[[float], None]
    unit_s: Callable[[int], float]
    until_s: float = 0.0
    found: dict[StepRow, list[float]] = field(default_factory=dict)
    changed: dict[StepRow, StepRow] = field(default_factory=dict)

    @property
    def is_late(self) -> bool:
        """Whether the time is used up."""
        return self.now() >= self.until_s

    def measure(self, wanted: StepRow) -> float | None:
        """Sample steps like `wanted` once more; returns the median in units, None without any."""
        units: list[float] = []
        samples = min(self.samples, LONG_SAMPLES) if wanted.tokens > LONG else self.samples
        probe = self.probes[wanted.system]
        seconds = probe.time_steps(wanted, samples, lambda: units.append(self.unit_s(wanted.rows)))
        self.tell(self.now())
        if not seconds:
            return None
        unit_s = statistics.median(units)
        times = [each / unit_s for each in seconds]
        self.found.setdefault(wanted, []).extend(times)
        if wanted.groups:  # what such steps copy and share is for the engine to say
            self.changed[wanted] = replace(
                wanted, blocks=probe.copied_blocks, cached=probe.shared_tokens
            )
        return statistics.median(times)

    def repeat(self, number: int) -> None:
        """Measure all again in another order, as far as there is time."""
        steps = [step for step in self.found if number % 2 or step.tokens <= LONG]
        random.Random(number).shuffle(steps)
        for wanted in steps:
            if self.is_late:
                return
            self.measure(wanted)

    def rows(self) -> list[StepRow]:
        """All steps with their means: a trace's time is a sum of steps, late ones included."""
        rows = []
        for wanted, times in self.found.items():
            ordered = sorted(times)
            quarter, most = len(ordered) // 4, OUTLIER * statistics.median(ordered)
            rows.append(
                replace(
                    self.changed.get(wanted, wanted),
                    seconds=statistics.fmean(min(time, most) for time in ordered),
                    samples=len(ordered),
                    spread=(ordered[-1 - quarter] - ordered[quarter]) / 2,
                )
            )
        return sorted(rows, key=_order)


def _order(row: StepRow) -> tuple[object, ...]:
    return (
        row.system,
        row.kind,
        row.sequences,
        row.context,
        row.prompts,
        row.tokens,
        row.cached,
        row.blocks,
    )


def measure_steps(
    probes: Mapping[str, Probe],
    scopes: Sequence[Scope],
    *,
    samples: int = 3,
    budget_s: float,
    now: Callable[[], float] = time.monotonic,
    tell: Callable[[float], None] = lambda _: None,
    unit_s: Callable[[int], float] = lambda _: 1.0,
) -> list[StepRow]:
    """Measure the systems' steps in about `budget_s` seconds; the coarse grid always.

    `tell` hears the share of the time that is used, 0 to 1. The rows' times are in units of what
    `unit_s` returns around each step for its number of rows: by default in seconds.
    """
    started = now()

    def tell_time(time_s: float) -> None:
        tell(min(1.0, (time_s - started) / budget_s) if budget_s else 0.0)

    found = Measurements(probes, samples, now, tell_time, unit_s)
    for scope in scopes:
        found.until_s = now() + REFINE_SHARE * scope.share * budget_s
        _find_sizes(found, scope)
    found.until_s = started + budget_s
    for number in range(1, PASSES):
        found.repeat(number)
    return found.rows()


def _find_sizes(found: Measurements, scope: Scope) -> None:
    sizes, prompts = _sizes(scope.most_sequences), _prompt_sizes(scope)
    beside = [0] if scope.system == "ft" else [0, *(n for n in sizes if n in _BESIDE)]
    for n in sizes:
        for wanted in _decodes(scope, n):
            found.measure(wanted)
    _refine(found, sizes, lambda n: _decodes(scope, n))  # first: most steps only decode
    for wanted in (
        *(_prompt(scope, n, tokens) for n in beside for tokens in prompts),
        *_others(scope, sizes),
    ):
        found.measure(wanted)
    _refine(found, prompts, lambda tokens: [_prompt(scope, n, tokens) for n in beside])


def _refine(
    found: Measurements, sizes: Sequence[int], steps: Callable[[int], list[StepRow]]
) -> None:
    """Add the sizes between two measured ones where the middle is not on the line between."""
    gaps = [gap for gap in pairwise(sizes) if gap[1] - gap[0] > 1]
    while gaps and not found.is_late:
        low, high = gaps.pop(0)
        middle = (low + high) // 2
        share = (middle - low) / (high - low)
        rows = list(_aligned(steps(middle), steps(low), steps(high)))
        if _errs(found, rows, share) and _errs(found, rows, share):
            gaps += [gap for gap in ((low, middle), (middle, high)) if gap[1] - gap[0] > 1]


def _errs(found: Measurements, rows: Sequence[tuple[StepRow, ...]], share: float) -> bool:
    """Whether steps are off the line between two others, all measured now, by the median."""
    errors = []
    for row in rows:
        times = [found.measure(step) for step in row]
        if None not in times:
            here, left, right = (t or 0.0 for t in times)
            errors.append(abs(left + share * (right - left) - here) / here)
    return bool(errors) and statistics.median(errors) > TOLERANCE


def _aligned(*rows: Sequence[StepRow]) -> Iterator[tuple[StepRow, ...]]:
    """Steps of several sizes that are alike otherwise."""
    keyed = [{(r.context, r.sequences if r.tokens else 0): r for r in each} for each in rows]
    for key in keyed[0]:
        if all(key in each for each in keyed):
            yield tuple(each[key] for each in keyed)


def _sizes(most: int) -> list[int]:
    """Powers of two, and the middles between them: 1, 2, 3, 4, 6, 8, 12, 16, ..."""
    powers = [1 << k for k in range(most.bit_length())]
    return sorted({*powers, *(3 * power // 2 for power in powers[1:] if 3 * power // 2 <= most)})


def _prompt_sizes(scope: Scope) -> list[int]:
    return [*(size for size in (1, 4, 16, 64, 256) if size < scope.most_tokens), scope.most_tokens]


def _decodes(scope: Scope, sequences: int) -> list[StepRow]:
    """Steps of as many sequences with a total context of powers of four, and with the largest."""
    least, most = 12 * sequences, min(sequences * (scope.max_len - 32), scope.most_context)
    powers = [16 * 4**k for k in range(12) if 16 * 4**k < scope.most_context]
    contexts = [c for c in (*powers, scope.most_context) if least <= c <= most]
    return [_step("decode", scope, sequences=sequences, context=context) for context in contexts]


def _prompt(scope: Scope, beside: int, tokens: int) -> StepRow:
    context = USUAL_CONTEXT * beside
    return _step("prompt", scope, sequences=beside, context=context, prompts=1, tokens=tokens)


def _others(scope: Scope, sizes: Sequence[int]) -> Iterator[StepRow]:
    """Several prompts, cached ones, choices of tokens, copies and swaps."""
    powers = [n for n in sizes if n & (n - 1) == 0]
    for count in powers[1:]:
        yield _step("prompt", scope, prompts=count, tokens=count * SHORT // 4)
    largest = max(_prompt_sizes(scope))
    if largest > 4 * SHORT:
        yield _step("prompt", scope, prompts=4, tokens=largest)
    if scope.system == "astra":
        for n in (size for size in _BESIDE if 1 < size <= scope.most_sequences):
            yield _step("decode", scope, sequences=n, context=SHARED_CONTEXT * n,
                        cached=(SHARED_CONTEXT - 2 * SHORT) * (n - 1))  # fmt: skip
        for tokens in (SHORT, 4 * SHORT):
            cached = max(SHORT, largest // 2 // SHORT * SHORT)
            yield _step("prompt", scope, prompts=1, tokens=tokens, cached=cached)
    for kind, width in (("draw", USUAL_OUTPUTS), *(("beam", width) for width in scope.widths)):
        for groups in [n for n in powers if n * width <= scope.most_sequences]:
            n = groups * width
            yield _step(kind, scope, sequences=n, context=USUAL_CONTEXT * n, groups=groups)
    moves = {"astra": ("copy", "swap_in", "swap_out"), "orca": ("copy",), "ft": ()}
    for kind in moves[scope.system]:
        for blocks in _COPIED:
            yield _step(kind, scope, blocks=blocks)


def _step(kind: str, scope: Scope, **counts: int) -> StepRow:
    return StepRow(kind=kind, system=scope.system, seconds=0.0, **counts)
