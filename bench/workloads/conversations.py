"""Chat (Figure 17) and translation with a shared prefix (Figure 16)."""

from __future__ import annotations

import math
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


def conversation_rounds(count: int, *, generator: np.random.Generator) -> NDArray[np.int64]:
    """Rounds of each conversation, geometric, all together exactly `count`."""
    # A geometric number of mean m exceeds k with probability (1 - 1/m)^k; invert that.
    stay = math.log1p(-1 / assumed.CHAT_MEAN_ROUNDS.value)
    uniform = generator.random(count)  # no conversation has less than one round
    rounds = np.maximum(np.ceil(np.log1p(-uniform) / stay), 1).astype(np.int64)
    total = np.cumsum(rounds)
    used = int(np.searchsorted(total, count)) + 1
    rounds = rounds[:used]
    rounds[-1] -= total[used - 1] - count
    return rounds


def real_conversations(
    turns: Lengths, count: int, *, generator: np.random.Generator
) -> tuple[Lengths, NDArray[np.int64]]:
    """Whole conversations in random order, again if too few, all together exactly `count` turns.

    Returns their turns, one conversation after the other, and the rounds of each.
    """
    assert turns.conversation is not None, "lengths of conversations"
    by_conversation = np.argsort(turns.conversation, kind="stable")
    _, sizes = np.unique(turns.conversation, return_counts=True)
    ends = np.cumsum(sizes)
    rows: list[NDArray[np.int64]] = []
    left = count
    while left > 0:
        for number in generator.permutation(len(sizes)):
            end = ends[number]
            rows.append(by_conversation[end - sizes[number] : end][:left])
            left -= len(rows[-1])
            if left == 0:
                break
    return turns.take(np.concatenate(rows)), np.array([len(each) for each in rows])


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
    """Lengths of each arrival's request.

    `turns` are query and answer lengths by arrival, `order` the conversation of each. The prompt
    is the last tokens of history and query that fit half of `context`; the answer is cut to
    the other half.
    """
    prompt_limit = int(context * assumed.CHAT_PROMPT_SHARE.value)
    history: dict[int, int] = {}
    prompts = np.empty(len(turns), dtype=np.int32)
    answers = np.minimum(turns.output_len, context - prompt_limit)
    for arrival in range(len(turns)):
        conversation = int(order[arrival])
        said = history.get(conversation, 0) + int(turns.input_len[arrival])
        prompts[arrival] = min(said, prompt_limit)
        history[conversation] = said + int(answers[arrival])
    return Lengths(prompts, answers)
