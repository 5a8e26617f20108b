"""What the figures share: the paper's servers, its numbers and the settings of its traces."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

from bench.experiments.model import Curve

ORCA = ("orca-oracle", "orca-pow2", "orca-max")

# Table 1 of the paper: which server each model runs on.
SERVERS: dict[str, dict[str, Any]] = {
    "opt-13b": {"model": "opt-13b", "device_profile": "a100-40gb", "tensor_parallel": 1},
    "opt-66b": {"model": "opt-66b", "device_profile": "a100-40gb", "tensor_parallel": 4},
    "opt-175b": {"model": "opt-175b", "device_profile": "a100-80gb", "tensor_parallel": 8},
    "llama-13b": {"model": "llama-13b", "device_profile": "a100-40gb", "tensor_parallel": 1},
}
HARDWARE = {
    "opt-13b": "1x A100-40GB",
    "opt-66b": "4x A100-40GB",
    "opt-175b": "8x A100-80GB",
    "llama-13b": "1x A100-40GB",
}

# The original scripts serve traces of 600 s; the paper's are of an hour.
SCRIPT_TRACE = {"duration": 600.0, "warmup": 60.0}
PAPER_TRACE = {"duration": 3600.0}
# Overload whose steady state is averaged: 900 s, of which the first 300 s fill the cache.
OVERLOAD_TRACE = {"duration": 900.0, "window": (300.0, 900.0), "timeout": 900.0}


def _numbers() -> Any:
    text = resources.files("bench.experiments").joinpath("claims.json").read_text(encoding="utf-8")
    return json.loads(text)


def paper_number(path: str) -> float | tuple[float, float]:
    """The paper's number at `path` ("fig13:alpaca@30:astra"): a value, or (low, high).

    Of a rising list of more than two values these are the first and the last.
    """
    value = _numbers()
    for key in path.split(":"):
        assert key in value, f"claims.json has no '{path}'"
        value = value[key]
    if isinstance(value, list):
        return float(value[0]), float(value[-1])
    return float(value)


def curves(
    rates: Mapping[str, tuple[float, ...]],
    extra: Mapping[str, tuple[float, ...]] | None = None,
    **settings: Any,
) -> tuple[Curve, ...]:
    """One curve for each system; `settings` hold for all of them."""
    extra = extra or {}
    assert set(extra) <= set(rates), f"extra rates for unknown systems: {set(extra) - set(rates)}"
    return tuple(
        Curve(system, values, extra.get(system, ()), settings) for system, values in rates.items()
    )


TRACE_MATCHED = "random stream of the shipped lengths (a prediction with real lengths)"
