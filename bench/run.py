"""Run one point: workload, engine and executor put together, driven to the last request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.point import PointSpec

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Outcome:
    """What a point yields.

    `metrics` holds the JSON keys of `bench run`. `requests` are columns of equal length:
    request_id, arrival_s, input_len, output_len, first_token_s, finish_s, preemptions.
    `inputs` names and hashes what the result depends on besides the spec: the workload and the
    device profile.
    """

    metrics: dict[str, Any]
    requests: dict[str, NDArray[Any]]
    inputs: dict[str, Any]


def run_point(spec: PointSpec, *, on_progress: Progress | None = None) -> Outcome:
    """Serve the point's workload to the end.

    `on_progress` is called now and then with the finished share of requests, 0 to 1.
    Raises UserError for input that cannot be served.
    """
    raise NotImplementedError
