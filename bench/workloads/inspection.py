"""What a trace is like: its rate, how bursty it is, and its lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from bench.workloads.traces import Trace

PERCENTS = (1, 10, 25, 50, 75, 90, 99, 100)


def describe(trace: Trace) -> dict[str, Any]:
    """Count, rate, burstiness, lengths and their correlation; None or NaN where undefined.

    `burstiness` is the coefficient of variation of the gaps between arrivals: 0 if all are equal, 1
    for a Poisson process. `correlation` is Spearman's, of input and output lengths.
    """
    found: dict[str, Any] = {"format": trace.source, "requests": len(trace)}
    arrival_s = trace.arrival_s
    if arrival_s is not None:
        duration_s = float(arrival_s[-1] - arrival_s[0])
        gaps = np.diff(arrival_s)
        found["first_s"], found["last_s"] = float(arrival_s[0]), float(arrival_s[-1])
        found["rate"] = len(gaps) / duration_s if duration_s else None
        found["burstiness"] = float(gaps.std() / gaps.mean()) if duration_s else None
    for name, lengths in (("input_len", trace.input_len), ("output_len", trace.output_len)):
        found[name] = {"mean": float(lengths.mean()), "zeros": int((lengths == 0).sum())}
        values = np.percentile(lengths, PERCENTS, method="inverted_cdf").tolist()
        found[name] |= {
            f"p{percent}": value for percent, value in zip(PERCENTS, values, strict=True)
        }
    both = pd.DataFrame({"input": trace.input_len, "output": trace.output_len})
    found["correlation"] = float(both.rank().corr().to_numpy()[0, 1])
    return found
