"""A measurement of kernels that nobody has made."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from engines.core.models import find_model

# What `bench kernels` leaves: on an imaginary device the paged kernel takes a tenth longer.
MEASURED: dict[str, Any] = {
    "format": 2,
    "backend": "cpu",
    "device": "CPU, made up",
    "setup": {
        "spec": asdict(find_model("opt-125m")),
        "device": "cpu",
        "dtype": "float32",
        "rounds": 3,
        "samples": 7,
        "block_size": 16,
    },
    "num_tokens": 256,
    "copy_bandwidth": 1e10,
    "attention": [
        {
            "kind": kind,
            "batch_size": batch,
            "context_len": context,
            "block_size": 16,
            "latency_s": factor * batch * context * 1e-8,
            "p25_s": 0.9 * factor * batch * context * 1e-8,
            "p75_s": 1.2 * factor * batch * context * 1e-8,
            "bytes_moved": 1000,
            "share_of_copy": 0.5,
        }
        for kind, factor in (("paged", 1.1), ("contiguous", 1.0))
        for batch in (8, 32)
        for context in (64, 128, 256)
    ],
    "ratios": [
        {
            "batch_size": batch,
            "context_len": context,
            "paged_over_contiguous": 1.1,
            "least": 1.05,
            "largest": 1.15,
        }
        for batch in (8, 32)
        for context in (64, 128, 256)
    ],
    "recovery": [
        {
            "block_size": size,
            "staged": False,
            "swap_out_s": 0.02 / size,
            "swap_in_s": 0.03 / size,
            "recompute_s": 0.01,
            "spread_s": 0.001,
            "swapped_bytes": 1000,
            "share_of_copy": 0.1,
        }
        for size in (1, 16, 256)
    ],
    "provenance": {
        "source_sha256": "0",
        "started": "2026-01-01T00:00:00+00:00",
        "ended": "2026-01-01T00:00:01+00:00",
    },
}


def measured(*ratios: float, backend: str = "cpu") -> dict[str, Any]:
    """The same of as many contexts of a batch of 8 as there are ratios."""
    shapes = [{"batch_size": 8, "context_len": c + 1} for c in range(len(ratios))]
    row = MEASURED["attention"][0]
    return {
        **MEASURED,
        "backend": backend,
        "device": f"a {backend}",
        "attention": [row | s | {"kind": k} for k in ("paged", "contiguous") for s in shapes],
        "ratios": [
            s | {"paged_over_contiguous": value, "least": value, "largest": value}
            for s, value in zip(shapes, ratios, strict=True)
        ],
    }
