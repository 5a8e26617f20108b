"""Poisson arrivals, in the original's way."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

QUANTUM_S = 0.01
_CHUNK = 1 << 20


def poisson_arrivals(rate: float, duration: float, *, seed: int) -> NDArray[np.float64]:
    """Arrival times in seconds, ascending, of a Poisson process on [0, duration).

    `rate` is in requests per second. As in the original artifact, each 10 ms get a Poisson number
    of requests, all at their start, drawn from NumPy's legacy generator: the stream is fixed for
    good, and seed 0 gives the very arrival times of the original's runs.
    """
    random = np.random.RandomState(seed)
    num_quanta = int(duration / QUANTUM_S + 0.5)
    pieces = []
    for first in range(0, num_quanta, _CHUNK):
        counts = random.poisson(rate * QUANTUM_S, min(_CHUNK, num_quanta - first))
        pieces.append(np.repeat(np.arange(first, first + len(counts)), counts) * QUANTUM_S)
    return np.concatenate(pieces) if pieces else np.empty(0)
