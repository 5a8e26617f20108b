"""Choice of tokens: the likeliest, or drawn at a temperature from the likeliest ones (top-p)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Rows drawn at once on a CPU: a few megabytes of float64, which malloc gives again at the next
# step; larger ones come from the system each time, and touching them anew takes most of a draw.
CPU_ROWS = 4


def likeliest(logits: Tensor) -> Tensor:
    """The first token with the highest of a row's logits [n, vocab]; returns int64 [n].

    On a CPU NumPy's argmax takes a fifth of PyTorch's time. It knows no BF16, so a few rows at a
    time are widened, as many as stay in the processor's cache.
    """
    if logits.device.type != "cpu":
        return logits.argmax(-1)
    parts = [
        logits[first : first + CPU_ROWS].float().numpy().argmax(-1)
        for first in range(0, max(1, len(logits)), CPU_ROWS)
    ]
    return torch.from_numpy(np.concatenate(parts))


def uniform_numbers(
    seed: int, keys: NDArray[np.uint64], counters: NDArray[np.int32]
) -> NDArray[np.float64]:
    """Random numbers in [0, 1), a function of seed, key (a sequence) and counter (its token) alone.

    What a sequence draws therefore depends neither on the batch nor on preemptions. Each number is
    a hash by the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), applied per input.
    """
    state = np.full(len(keys), seed, dtype=np.uint64)
    for value in (keys, counters.astype(np.uint64)):
        state = _mix(state ^ value)
    return (_mix(state) >> np.uint64(11)).astype(np.float64) * np.float64(2.0**-53)


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def sample(
    logits: Tensor,
    rows: Tensor,
    uniforms: Tensor,
    *,
    temperatures: Tensor,
    top_ps: Tensor | None,
) -> Tensor:
    """Draw a token for each of some rows by inverting its distribution at `uniforms`.

    logits is [any, vocab], rows int64 [n]; the others are float64 [n], temperatures positive. top_p
    keeps the likeliest tokens up to the one that brings their probability to top_p (None: all, in
    every row). Returns int64 [n].

    Rows that keep all tokens are drawn in the tokens' own order, whoever else is in the batch.
    """
    if logits.device.type == "cpu" and len(rows) > CPU_ROWS:
        parts = [slice(first, first + CPU_ROWS) for first in range(0, len(rows), CPU_ROWS)]
        return torch.cat(
            [
                sample(logits, rows[part], uniforms[part], temperatures=temperatures[part],
                       top_ps=None if top_ps is None else top_ps[part])
                for part in parts
            ]
        )  # fmt: skip
    scores = logits[rows].double() / temperatures[:, None]
    of_all = _invert(scores.softmax(-1).cumsum(-1), uniforms)
    if top_ps is None:
        return of_all
    ordered, tokens = scores.sort(dim=-1, descending=True, stable=True)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    kept = probabilities.masked_fill(before >= top_ps[:, None], 0)
    drawn = _invert(kept.cumsum(-1), uniforms)
    return torch.where(top_ps < 1, tokens.gather(1, drawn[:, None]).squeeze(1), of_all)


def _invert(cumulative: Tensor, uniforms: Tensor) -> Tensor:
    """First index whose cumulative weight exceeds a uniform share of the whole."""
    targets = uniforms[:, None] * cumulative[:, -1:]
    found = torch.searchsorted(cumulative, targets, right=True).squeeze(1)
    return found.clamp_(max=cumulative.shape[1] - 1)


def log_probabilities(logits: Tensor, tokens: Tensor) -> Tensor:
    """Natural log of each row's probability of its token, float32 [n]."""
    scores = logits.float()
    chosen = scores.gather(1, tokens[:, None]).squeeze(1)
    return chosen - scores.logsumexp(-1)
