"""How a request asks for its tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass

from engines.core.errors import UserError, unknown_name

MOST_SEQUENCES = 64  # of a request
TEMPERATURES = (1e-6, 1e6)  # beyond these, tokens are greedy, or drawn alike


@dataclass(frozen=True)
class SamplingParams:
    """How a request's tokens are chosen.

    `n` sequences share the prompt; with `beam` they are the beams of one search.
    `temperature` 0 is greedy. `ignore_eos` forces `max_tokens` (as all experiments do).
    """

    n: int = 1
    beam: bool = False
    temperature: float = 0.0
    top_p: float = 1.0
    ignore_eos: bool = True

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UserError(f"number of sequences must be at least 1, got {self.n}")
        low, high = TEMPERATURES
        if self.temperature != 0 and not low <= self.temperature <= high:
            raise UserError(
                f"temperature must be 0 or from {low:g} to {high:g}, got {self.temperature:g}"
            )
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p must be in (0, 1], got {self.top_p}")

    @classmethod
    def parse(cls, name: str) -> SamplingParams:
        """Parse `n1`, `n4`, `beam6`...; raises UserError for anything else."""
        words = re.fullmatch("(n|beam)([1-9][0-9]?)", name)
        if words and (n := int(words[2])) <= MOST_SEQUENCES:
            beam = words[1] == "beam" and n > 1
            return cls(n=n, beam=beam, temperature=0.0 if beam or n == 1 else 1.0)
        raise unknown_name("sampling", name, ["n1", "n2", "n4", "n6", "beam2", "beam4", "beam6"])

    @property
    def name(self) -> str:
        """The short name that `parse` reads."""
        return f"{'beam' if self.beam else 'n'}{self.n}"
