"""Chat (Figure 17) and translation with a shared prefix (Figure 16)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from bench.workloads import assumed
from bench.workloads.lengths import CHUNK, Lengths, LogNormalLengths


def translation_lengths() -> LogNormalLengths:
    """Sentences of WMT16 English to German in LLaMA tokens, without the prefix."""
    return LogNormalLengths(
        assumed.TRANSLATION_INPUT_MEAN.value,
        assumed.TRANSLATION_SIGMA.value,
        assumed.TRANSLATION_OUTPUT_MEAN.value,
        assumed.TRANSLATION_SIGMA.value,
        correlation=assumed.TRANSLATION_CORRELATION.value,
        description="synthetic sentence lengths: log-normal with the means of WMT's "
        "English-German text",
    )


def real_conversations(turns: Lengths, count: int) -> tuple[Lengths, NDArray[np.int64]]:
    """Whole conversations in the order of their file, again if too few: exactly `count` turns.

    Returns their turns, one conversation after the other, and the rounds of each; the last may be
    cut.
    """
    assert turns.conversation is not None, "lengths of conversations"
    by_conversation = np.argsort(turns.conversation, kind="stable")
    _, sizes = np.unique(turns.conversation, return_counts=True)
    times = -(-count // len(turns))
    rows, rounds = np.tile(by_conversation, times)[:count], np.tile(sizes, times)
    total = np.cumsum(rounds)
    rounds = rounds[: int(np.searchsorted(total, count)) + 1]
    rounds[-1] -= rounds.sum() - count
    return turns.take(rows), rounds


def interleave(rounds: NDArray[np.int64], *, generator: np.random.Generator) -> NDArray[np.int64]:
    """Which conversation each arrival belongs to, (sum of rounds,).

    With probability p, or if none is open, an arrival starts the next conversation; else it
    continues one of the open ones, each equally likely.
    """
    left = rounds.tolist()
    started = 0
    open_ones: list[int] = []
    order = np.empty(int(rounds.sum()), dtype=np.int64)
    for arrival, (start, choice) in enumerate(_uniform_pairs(len(order), generator)):
        unstarted = started < len(left)
        if unstarted and (start < assumed.CHAT_NEW_PROBABILITY.value or not open_ones):
            current = started
            started += 1
            if left[current] > 1:
                open_ones.append(current)
        else:
            slot = int(choice * len(open_ones))
            current = open_ones[slot]
            if left[current] == 1:  # its last round: the order of open ones does not matter
                open_ones[slot] = open_ones[-1]
                open_ones.pop()
        left[current] -= 1
        order[arrival] = current
    return order


def _uniform_pairs(count: int, generator: np.random.Generator) -> Iterator[list[float]]:
    for first in range(0, count, CHUNK):
        yield from generator.random((min(CHUNK, count - first), 2)).tolist()


def chat_lengths(turns: Lengths, order: NDArray[np.int64], *, context: int) -> Lengths:
    """Lengths of each arrival's request, made as the original does.

    `turns` are query and answer lengths by arrival, `order` the conversation of each. The prompt
    is the last tokens of history and query that fit half of `context`; answers stand in the history
    as they are, and the request's output is cut to what is left, less a margin.
    """
    prompt_limit = int(context * assumed.CHAT_PROMPT_SHARE.value)
    output_limit = max(1, context - prompt_limit - int(assumed.CHAT_MARGIN.value))
    history: dict[int, int] = {}
    prompts = np.empty(len(turns), dtype=np.int32)
    rows = zip(order.tolist(), turns.input_len.tolist(), turns.output_len.tolist(), strict=True)
    for arrival, (conversation, query, answer) in enumerate(rows):
        said = history.get(conversation, 0) + query
        prompts[arrival] = min(said, prompt_limit)
        history[conversation] = said + answer
    return Lengths(prompts, np.minimum(turns.output_len, output_limit))
