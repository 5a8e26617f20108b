"""The shipped statistics, derived again from the real lengths."""

from __future__ import annotations

import hashlib

from bench.workloads.assumed import LENGTH_LIMIT
from bench.workloads.chat_table import CLASSES, derive_chat_table
from bench.workloads.datasets import (
    CHAT_COMMIT,
    CHAT_CSV,
    CHAT_SHA256,
    COMMIT,
    PICKLE,
    PICKLE_SHA256,
)
from bench.workloads.lengths import Lengths
from bench.workloads.quantiles import derive_table
from bench.workloads.tables import csv_bytes


def derive_statistics(lengths: Lengths) -> str:
    """The text of the shipped statistics: of first turns, or of conversations where known.

    The same lengths give the same text, byte for byte. Raises UserError for too few conversations.
    """
    digest = hashlib.sha256(csv_bytes(lengths.columns())).hexdigest()
    if lengths.conversation is None:
        header, table = _of_pairs(lengths, digest), derive_table(lengths).to_csv()
    else:
        header, table = _of_chat(lengths, digest), derive_chat_table(lengths).to_csv()
    return "".join(f"# {line}\n" for line in header) + table


def _of_pairs(lengths: Lengths, digest: str) -> tuple[str, ...]:
    kept = lengths.below(LENGTH_LIMIT)
    return (
        "Joint quantiles of request lengths in tokens of the OPT tokenizer: ShareGPT, the first",
        "turn of each conversation. Derived data: no single request is in this file.",
        "Source: sosp-ae-39/sosp-ae-astra (the paper's original artifact), commit",
        f"{COMMIT},",
        f"{PICKLE},",
        f"sha256 {PICKLE_SHA256}.",
        f"Made by `bench data derive`: {len(lengths)} pairs, of which the {len(kept)} with",
        f"input + output < {LENGTH_LIMIT} are used (sha256 of all pairs as CSV text:",
        f"{digest}).",
        "A line is a bin of neighbouring input lengths: its number of pairs (rows), the quantiles",
        "of its inputs (input_P for P percent) and of its outputs (output_P).",
    )


def _of_chat(turns: Lengths, digest: str) -> tuple[str, ...]:
    assert turns.conversation is not None, "lengths of conversations"
    count = len(set(turns.conversation.tolist()))
    return (
        "Quantiles of ShareGPT's conversations in tokens of the LLaMA-2 tokenizer: rounds, and",
        "queries and answers by round. Derived data: no single conversation is in this file.",
        "Source: microsoft/sarathi-serve (Apache-2.0), commit",
        f"{CHAT_COMMIT},",
        f"{CHAT_CSV},",
        f"sha256 {CHAT_SHA256}.",
        "A row whose prompt is longer than all that was said in the row before continues that",
        f"row's conversation. Made by `bench data derive`: {len(turns)} rounds of {count}",
        f"conversations (sha256 of all as CSV text: {digest}).",
        f"Conversations are in {CLASSES} classes of equal size by their mean tokens a round.",
        "A line holds the quantiles (pP for P percent) of a class's rounds, or of its queries or",
        "answers from a round on, counted from 0, up to the next line's.",
    )
