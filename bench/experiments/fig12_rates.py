"""The request rates of Figure 12: the original artifact's, and ours beyond them."""

from __future__ import annotations

Rates = dict[str, tuple[float, ...]]

# Requests per second by model, workload and system.
RATES: dict[str, dict[str, Rates]] = {
    "opt-13b": {
        "sharegpt": {
            "astra": (1.0, 1.25, 1.5, 1.75, 1.9, 2.0),
            "orca-oracle": (0.5, 0.75, 1.0, 1.25, 1.5),
            "orca-pow2": (0.25, 0.5, 0.75, 0.9),
            "orca-max": (0.2, 0.4, 0.5, 0.75),
            "ft": (0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35),
        },
        "alpaca": {
            "astra": (20.0, 22.5, 25.0, 27.5, 29.0, 31.5),
            "orca-oracle": (15.0, 17.5, 20.0, 21.0, 22.5, 24.0),
            "orca-pow2": (7.5, 10.0, 12.5, 15.0, 16.0, 17.0, 18.0),
            "orca-max": (2.0, 3.0, 4.0, 5.0),
            "ft": (0.1, 0.5, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0),
        },
    },
    "opt-66b": {
        "sharegpt": {
            "astra": (0.4, 0.6, 0.8, 0.9, 1.0),
            "orca-oracle": (0.2, 0.3, 0.4, 0.5),
            "orca-pow2": (0.1, 0.2, 0.25, 0.35),
            "orca-max": (0.1, 0.2, 0.3),
            "ft": (0.01, 0.05, 0.08, 0.1, 0.12, 0.15, 0.2),
        },
        "alpaca": {
            "astra": (11.0, 13.0, 15.0, 17.5, 18.5, 19.0, 20.0),
            "orca-oracle": (6.0, 8.0, 10.0, 11.0, 12.0),
            "orca-pow2": (3.0, 5.0, 6.0, 7.0),
            "orca-max": (0.05, 0.1, 0.15, 0.25),
            "ft": (0.1, 0.5, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5),
        },
    },
    "opt-175b": {
        "sharegpt": {
            "astra": (1.5, 1.75, 2.0, 2.25, 2.5, 3.0),
            "orca-oracle": (0.8, 1.0, 1.2, 1.4, 1.6, 1.8),
            "orca-pow2": (0.5, 0.75, 1.0, 1.25, 1.5),
            "orca-max": (0.25, 0.5, 0.75, 1.0, 1.25),
            "ft": (0.01, 0.05, 0.1, 0.15, 0.2, 0.3),
        },
        "alpaca": {
            "astra": (15.0, 17.5, 19.0, 20.0, 22.0),
            "orca-oracle": (15.0, 17.5, 19.0, 20.0, 22.0),
            "orca-pow2": (10.0, 15.0, 16.0, 17.0, 19.0),
            "orca-max": (1.25, 2.5, 4.0, 5.0, 7.0),
            "ft": (0.1, 0.5, 1.0, 1.5, 2.0, 5.0),
        },
    },
}

# Ours. Where the original's rates end before a curve reaches 1 s/token, or pass it in a wide step,
# these surround the crossing, so that the capacity is an interpolation and not a bound.
EXTRA_RATES: dict[str, dict[str, Rates]] = {
    "opt-13b": {
        "sharegpt": {
            "astra": (2.3, 2.6, 2.9),
            "orca-pow2": (1.0, 1.1, 1.2),
            "orca-max": (0.86, 0.95),
            "ft": (0.175,),
        },
        "alpaca": {
            "astra": (39.0, 43.0, 47.5),
            "orca-oracle": (27.0, 30.0, 33.0),
            "orca-pow2": (19.5, 21.5, 24.0),
            "ft": (3.4,),
        },
    },
    "opt-66b": {
        "sharegpt": {
            "astra": (1.15, 1.25, 1.4),
            "orca-pow2": (0.38, 0.41),
            "orca-max": (0.23,),
        },
        "alpaca": {
            "astra": (24.0, 27.0, 29.0),
            "orca-oracle": (13.5, 15.0, 16.5),
            "orca-pow2": (8.25, 9.0, 10.0),
            "orca-max": (1.15, 1.35, 1.5, 1.65),
        },
    },
    "opt-175b": {
        "sharegpt": {
            "astra": (3.5, 3.8),
            "orca-oracle": (2.1, 2.3),
            "orca-pow2": (1.7, 1.85),
            "orca-max": (1.35, 1.45),
            "ft": (0.175,),
        },
        "alpaca": {
            "astra": (23.0, 28.0, 31.0, 34.0),
            "orca-oracle": (24.0, 27.0, 30.0),
            "orca-pow2": (21.5, 24.0, 26.0),
            "orca-max": (7.75, 8.5),
        },
    },
}
