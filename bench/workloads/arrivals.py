"""Poisson arrivals, in the original's way."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

QUANTUM_S = 0.01
MOST_QUANTA = 100_000_000  # 11.6 days: drawing them takes a second or two
_CHUNK = 1 << 20


def poisson_arrivals(rate: float, duration: float, *, seed: int) -> NDArray[np.float64]:
    """Arrival times in seconds, ascending, of a Poisson process on [0, duration).

    `rate` is in requests per second. As in the original artifact, each 10 ms get a Poisson number
    of requests, all at their start, drawn from NumPy's legacy generator: the stream is fixed for
    good, and seed 0 gives the very arrival times of the original's runs. Longer than
    `MOST_QUANTA` * 10 ms, the gaps between requests are drawn instead (another stream): the cost
    is then that of the requests and not that of the time between them.
    """
    random = np.random.RandomState(seed)
    if duration > MOST_QUANTA * QUANTUM_S:
        return _from_gaps(random, rate, duration)
    num_quanta = int(duration / QUANTUM_S + 0.5)
    pieces = []
    for first in range(0, num_quanta, _CHUNK):
        counts = random.poisson(rate * QUANTUM_S, min(_CHUNK, num_quanta - first))
        pieces.append(np.repeat(np.arange(first, first + len(counts)), counts) * QUANTUM_S)
    return np.concatenate(pieces) if pieces else np.empty(0)


def _from_gaps(random: np.random.RandomState, rate: float, duration: float) -> NDArray[np.float64]:
    pieces = [np.zeros(1)]
    while pieces[-1][-1] < rate * duration:  # in mean gaps, which neither overflow nor vanish
        pieces.append(pieces[-1][-1] + random.standard_exponential(_CHUNK).cumsum())
    gaps = np.concatenate(pieces[1:])
    arrival_s: NDArray[np.float64] = gaps[gaps < rate * duration] / rate
    return arrival_s
