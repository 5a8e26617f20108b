"""Figures 16 and 17: a prefix that all requests share, and conversations."""

from __future__ import annotations

from bench.experiments.fig_common import (
    HARDWARE,
    ORCA,
    PAPER_TRACE,
    SCRIPT_TRACE,
    SERVERS,
    paper_number,
)
from bench.experiments.model import Claim, Curve, Figure, Panel

PREFIX_RATES: dict[str, dict[str, tuple[float, ...]]] = {
    "1shot": {
        "astra": (1.0, 24.0, 32.0, 40.0, 48.0, 50.0, 51.0, 52.0),
        "orca-oracle": (1.0, 24.0, 26.0, 28.0, 29.0, 30.0, 31.0, 32.0),
    },
    "5shot": {
        "astra": (1.0, 24.0, 36.0, 40.0, 41.0, 42.0, 43.0, 44.0, 45.0, 46.0, 47.0, 48.0),
        "orca-oracle": (1.0, 4.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0),
    },
}
# Ours, around the point at which a curve reaches 1 s/token.
PREFIX_EXTRA_RATES: dict[str, dict[str, tuple[float, ...]]] = {
    "1shot": {"astra": (42.0, 44.0), "orca-oracle": (20.0, 22.5, 23.5)},
    "5shot": {"astra": (28.0, 30.0, 31.0), "orca-oracle": (9.5,)},
}
CHAT_EXTRA_RATES = {
    "astra": (1.2, 1.3, 1.4),
    "orca-oracle": (0.8, 0.9, 1.0, 1.1),
    "orca-pow2": (0.8, 0.9, 1.0),
    "orca-max": (0.8, 0.9),
}
CHAT_ASTRA_RATES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0, 1.1)
CHAT_ORCA_RATES = (0.1, 0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7)


def _prefix_panel(shots: str) -> Panel:
    # The original bounds the shared-prefix runs to 256 sequences.
    shared = {"share_prefix": True, "max_num_seqs": 256}
    rates, extra = PREFIX_RATES[shots], PREFIX_EXTRA_RATES[shots]
    return Panel(
        f"fig16-{shots}",
        f"{shots[0]}-shot prefix, {80 if shots == '1shot' else 341} tokens",
        (
            Curve("astra", rates["astra"], extra["astra"], shared, "Astra, shared prefix"),
            Curve("orca-oracle", rates["orca-oracle"], extra["orca-oracle"]),
        ),
        {
            **SERVERS["llama-13b"],
            "workload": f"translation-{shots}",
            **SCRIPT_TRACE,
            "duration": 1200.0,
        },
        PAPER_TRACE,
    )


def _ratio(path: str, panel: str, baseline: str, text: str, notes: str = "") -> Claim:
    return Claim(
        path=path,
        text=f"sustained rate, astra over {baseline}, {text}",
        paper=paper_number(path),
        tolerance=0.15,
        kind="relative",
        measure="capacity_ratio",
        args={"panel": panel, "over": "astra", "under": baseline},
        unit="x",
        notes=notes,
    )


FIG16 = Figure(
    name="fig16",
    title="Translation with a shared prefix (Fig. 16)",
    section="6.4",
    claim="With the prefix shared, Astra sustains 1.67x (1 example) and 3.58x (5 examples)",
    panels=tuple(_prefix_panel(shots) for shots in PREFIX_RATES),
    plot="normalized-latency",
    claims=tuple(
        _ratio(f"fig16:{shots}", f"fig16-{shots}", "orca-oracle", f"{shots} prefix")
        for shots in PREFIX_RATES
    ),
    hardware=HARDWARE["llama-13b"],
)

CHAT_NOTES = (
    "where prompts fill their 1024 tokens, as the paper says that most do, Orca has room for 7 "
    "reservations of 2048 and Astra for 13 conversations: 1.9 times as many, but in longer steps, "
    "and both spend 0.15 s on each prompt, which bounds the ratio near 1.45. Here half of the "
    "prompts fill them, since ShareGPT's conversations have 3.51 rounds on average; shorter ones "
    "need less of Orca (Oracle) and (Pow2), which then do better than Orca (Max). No length of "
    "conversations brings the paper's 2x over all three: with 2.5 rounds and 3600 s it is 1.6 to "
    "2.0, with 5.75 rounds 1.4. Nor are the original's interleavings the cause (a new conversation "
    "with probability 0.5 for Astra and 0.1 for Orca, here 0.5 for all): with them it is 1.45 to "
    "1.61"
)

FIG17 = Figure(
    name="fig17",
    title="Chat (Fig. 17)",
    section="6.5",
    claim="Astra sustains 2x the rate of all three Orca variants, which behave alike",
    panels=(
        Panel(
            "fig17-13b-chat",
            "OPT-13B, 1 GPU, chat on ShareGPT",
            (
                Curve("astra", CHAT_ASTRA_RATES, CHAT_EXTRA_RATES["astra"]),
                *(Curve(system, CHAT_ORCA_RATES, CHAT_EXTRA_RATES[system]) for system in ORCA),
            ),
            {**SERVERS["opt-13b"], "workload": "chat", **SCRIPT_TRACE},
            PAPER_TRACE,
        ),
    ),
    plot="normalized-latency",
    claims=tuple(
        _ratio("fig17:value", "fig17-13b-chat", system, "chat", CHAT_NOTES) for system in ORCA
    ),
    hardware=HARDWARE["opt-13b"],
)
