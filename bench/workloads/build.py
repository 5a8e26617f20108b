"""Workloads by name: arrivals and lengths put together, reproducible from a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.workloads import assumed
from bench.workloads.arrivals import poisson_arrivals
from bench.workloads.chat_table import ChatTable
from bench.workloads.conversations import (
    chat_lengths,
    interleave,
    real_conversations,
    translation_lengths,
)
from bench.workloads.lengths import (
    EmpiricalLengths,
    Lengths,
    LengthSource,
    alpaca_lengths,
    real_lengths,
    sample_lengths,
)
from bench.workloads.quantiles import QuantileTable
from bench.workloads.tables import MAX_ROWS, read_input
from engines.core.errors import UserError, unknown_name
from engines.core.request import Request
from engines.core.sampling import SamplingParams

STATISTICS_FILE = Path(__file__).parent / "data" / "sharegpt_lengths.csv"
CHAT_FILE = STATISTICS_FILE.with_name("chat_lengths.csv")
_CHUNK = 1 << 12


@dataclass(frozen=True)
class Workload:
    """Requests in order of arrival.

    `source` says in one sentence what lengths these are. `arrival_s` is float64 in seconds from
    the start; lengths are int32 in tokens, (n,) each; `prefix_len` leading tokens of a prompt are
    shared with the other requests. `rate` is in requests per second, `duration_s` the length of the
    arrivals. `files` holds the SHA-256 of the files that were read, by setting; `trace` says what a
    trace was and what of it is served.
    """

    name: str
    source: str
    arrival_s: NDArray[np.float64]
    input_len: NDArray[np.int32]
    output_len: NDArray[np.int32]
    prefix_len: NDArray[np.int32]
    rate: float
    duration_s: float
    files: Mapping[str, str] = field(default_factory=dict)
    trace: Mapping[str, Any] | None = None

    def __len__(self) -> int:
        return len(self.arrival_s)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the requests (not of the names): equal hashes mean equal requests."""
        digest = hashlib.sha256()
        digest.update(np.ascontiguousarray(self.arrival_s, dtype="<f8").tobytes())
        for lengths in (self.input_len, self.output_len, self.prefix_len):
            digest.update(np.ascontiguousarray(lengths, dtype="<i4").tobytes())
        return digest.hexdigest()

    def shrunk(self, divisor: int) -> Workload:
        """The same requests with all lengths divided, rounded down to no less than 1."""
        if divisor == 1:
            return self
        return replace(
            self,
            source=f"{self.source}, lengths divided by {divisor}",
            input_len=np.maximum(self.input_len // divisor, 1),
            output_len=np.maximum(self.output_len // divisor, 1),
            prefix_len=self.prefix_len // divisor,
        )

    @property
    def mean_input_len(self) -> float:
        """Mean prompt length in tokens, a shared prefix included."""
        return float(self.input_len.mean())

    @property
    def mean_output_len(self) -> float:
        """Mean output length in tokens."""
        return float(self.output_len.mean())

    def requests(self, sampling: SamplingParams) -> Iterator[Request]:
        """The requests, made one by one, with ids 0 to n - 1 in order of arrival."""
        for first in range(0, len(self), _CHUNK):
            part = slice(first, first + _CHUNK)
            columns = (self.arrival_s, self.input_len, self.output_len, self.prefix_len)
            rows = zip(*(column[part].tolist() for column in columns), strict=True)
            for index, (arrival_s, input_len, output_len, prefix_len) in enumerate(rows, first):
                yield Request(index, arrival_s, input_len, output_len, sampling, prefix_len)


@dataclass(frozen=True)
class _Recipe:
    """How a named workload's lengths are made when no file replaces them."""

    lengths: Callable[[], LengthSource | ChatTable]
    prefix_len: int = 0
    stream: int = 0  # which of a seed's independent streams the lengths come from


def sharegpt_lengths() -> QuantileTable:
    """The shipped statistics of ShareGPT's first turns (paper, Figure 11)."""
    return QuantileTable.parse(*_shipped("ShareGPT lengths", STATISTICS_FILE))


def chat_statistics() -> ChatTable:
    """The shipped statistics of real ShareGPT conversations."""
    return ChatTable.parse(*_shipped("ShareGPT conversations", CHAT_FILE))


def _shipped(what: str, path: Path) -> tuple[str, str]:
    """The text of shipped statistics, and the phrase that results describe them with."""
    file = read_input(path)
    return file.data.decode(), f"{what} drawn from shipped quantiles (sha256 {file.sha256})"


_RECIPES = {
    "sharegpt": _Recipe(sharegpt_lengths, stream=int(assumed.SHAREGPT_STREAM.value)),
    "alpaca": _Recipe(alpaca_lengths),
    "chat": _Recipe(chat_statistics),
    "translation-1shot": _Recipe(
        translation_lengths, int(assumed.TRANSLATION_ONE_SHOT_PREFIX.value)
    ),
    "translation-5shot": _Recipe(
        translation_lengths, int(assumed.TRANSLATION_FIVE_SHOT_PREFIX.value)
    ),
}
WORKLOADS = tuple(_RECIPES)


class Stream(IntEnum):
    """Independent random streams of one seed; the numbers are part of every result."""

    LENGTHS = 1
    ROUNDS = 2
    INTERLEAVING = 3
    TRACE_ARRIVALS = 4

    def generator(self, seed: int, stream: int = 0) -> np.random.Generator:
        """Draws from this stream of the seed, or from the part `stream` of it."""
        key = (self.value, stream) if stream else (self.value,)
        return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def build_workload(
    name: str,
    *,
    rate: float,
    duration: float,
    seed: int,
    lengths: Path | None = None,
    max_model_len: int = assumed.LENGTH_LIMIT,
) -> Workload:
    """Make a named workload.

    `rate` is in requests per second, `duration` in seconds, both positive. `lengths` is a file of
    real lengths that replaces the workload's own. Requests longer than `max_model_len` tokens are
    not drawn. Raises UserError for unknown names, bad files and workloads of no request.
    """
    if name not in _RECIPES:
        raise unknown_name("workload", name, WORKLOADS)
    arrival_s = _arrivals(rate, duration, seed)
    recipe = _RECIPES[name]
    shipped = recipe.lengths()
    is_chat = isinstance(shipped, ChatTable)
    real, files = None, {}
    if lengths is not None:
        file = read_input(lengths)
        real = real_lengths(file, first_turns=not is_chat)
        files = {"lengths": file.sha256}
    if isinstance(shipped, ChatTable):
        turns, order = _draw_turns(shipped, real, count=len(arrival_s), seed=seed)
        drawn = chat_lengths(turns, order, context=max_model_len)
    else:
        source = real or shipped
        drawn = _draw(recipe, source, count=len(arrival_s), seed=seed, max_model_len=max_model_len)
    prefix_len = np.full(len(drawn), recipe.prefix_len, dtype=np.int32)
    note = f", after a shared prefix of {recipe.prefix_len} tokens" if recipe.prefix_len else ""
    note += ", as rounds of conversations" if is_chat else ""
    return Workload(
        name,
        f"{(real or shipped).description}{note}",
        arrival_s,
        drawn.input_len,
        drawn.output_len,
        prefix_len,
        rate=rate,
        duration_s=duration,
        files=files,
    )


def _draw(
    recipe: _Recipe, source: LengthSource, *, count: int, seed: int, max_model_len: int
) -> Lengths:
    generator = Stream.LENGTHS.generator(seed, recipe.stream)
    limit = max_model_len - recipe.prefix_len
    if isinstance(source, EmpiricalLengths):
        drawn = source.shuffled_head(count, seed=seed, limit=limit)
    else:
        drawn = sample_lengths(source, count, generator=generator, limit=limit)
    return replace(drawn, input_len=drawn.input_len + np.int32(recipe.prefix_len))


def _draw_turns(
    table: ChatTable, real: EmpiricalLengths | None, *, count: int, seed: int
) -> tuple[Lengths, NDArray[np.int64]]:
    """Lengths of each arrival's turn and the conversation of each: real ones where known.

    Where the real ones are of first turns only, rounds are the table's and turns are theirs.
    """
    of_turns = Stream.LENGTHS.generator(seed)
    if real is not None and real.pairs.conversation is not None:
        turns, rounds = real_conversations(real.pairs, count)
    else:
        of_conversations = Stream.ROUNDS.generator(seed)
        turns, rounds = table.draw(count, of_conversations=of_conversations, of_turns=of_turns)
    if real is not None and real.pairs.conversation is None:
        turns = sample_lengths(real, count, generator=of_turns, limit=assumed.LENGTH_LIMIT)
    order = interleave(rounds, generator=Stream.INTERLEAVING.generator(seed))
    return turns.take(np.argsort(np.argsort(order, kind="stable"))), order


def _arrivals(rate: float, duration: float, seed: int) -> NDArray[np.float64]:
    if rate * duration > MAX_ROWS:
        raise UserError(
            f"{rate:g} requests/s for {duration:g} s are more than {MAX_ROWS} "
            "requests: lower the rate or the duration"
        )
    arrival_s = poisson_arrivals(rate, duration, seed=seed)
    if not len(arrival_s):
        raise UserError(
            f"no request arrives in {duration:g} s at {rate:g} requests/s: raise the "
            "rate or the duration, or choose another seed"
        )
    return arrival_s
