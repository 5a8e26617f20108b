"""Figures that need no run: what preempting costs by the price of a step, and lengths as drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.experiments.miniature import TYPICAL_BATCH, TYPICAL_CONTEXT, typical_step_s
from bench.workloads.build import Workload, build_workload
from engines.core.models import find_model
from engines.sim.cost import StepCost, Work
from engines.sim.profile import load_profile

DRAWN_REQUESTS_PER_S, DRAWN_S = 100.0, 500.0  # 50,000 requests show a distribution's shape


def preemption_costs(
    block_sizes: Sequence[int], *, context_len: int, model: str, device_profile: str
) -> pd.DataFrame:
    """Seconds to swap one sequence out, to swap it in, and to recompute it, by block size.

    Columns block_size, swap_out_s, swap_in_s, recompute_s. A recomputed prompt is batched with the
    typical sequences that decode, for which the weights are read anyway: it costs what it adds.
    """
    shape, profile = find_model(model), load_profile(device_profile)
    rows = []
    for size in block_sizes:
        cost = StepCost(shape, profile, tensor_parallel=1, block_size=size, python_host=True)
        one_way = _added(cost, blocks_out=-(-context_len // size))
        again = _added(
            cost,
            groups=TYPICAL_BATCH + 1,
            prompts=1,
            prompt_tokens=context_len,
            prompt_squares=context_len * context_len,
        )
        rows.append((size, one_way, one_way, again))
    return pd.DataFrame(rows, columns=["block_size", "swap_out_s", "swap_in_s", "recompute_s"])


def _added(cost: StepCost, *, groups: int = TYPICAL_BATCH, **more: Any) -> float:
    """Seconds that more work adds to a step that decodes the typical batch."""
    context_tokens = TYPICAL_BATCH * TYPICAL_CONTEXT
    work = Work(decodes=TYPICAL_BATCH, groups=groups, context_tokens=context_tokens, **more)
    return cost.seconds(work) - typical_step_s(cost)


def drawn_workload(name: str) -> Workload:
    """Many requests of a workload, for the shape of its lengths."""
    return build_workload(name, rate=DRAWN_REQUESTS_PER_S, duration=DRAWN_S, seed=0)


def length_shares(lengths: NDArray[np.int32], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of all requests, in percent, whose length is in each bin."""
    counts, _ = np.histogram(lengths, bins=edges)
    return np.asarray(100.0 * counts / len(lengths))
