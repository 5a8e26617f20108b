"""How many claims hold, by how our numbers came about and by how firmly that is decided.

A claim that was predicted and is decided says most, so it is counted first. A claim on which a
parameter was fitted says little by holding, and one that is open says nothing yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.claims.verdicts import UNDECIDED, Doubt, Status

BASES = ("predicted", "measured", "computed", "calibrated")
DOUBTS = {doubt.value: f"open ({doubt})" for doubt in Doubt}


@dataclass(frozen=True)
class Count:
    """So many claims of a kind, of which `held` hold; that is None if they are not decided.

    `name` is one of BASES, or says why the claims are not decided.
    """

    name: str
    total: int
    held: int | None = None

    @property
    def text(self) -> str:
        """The count in print."""
        return str(self.total) if self.held is None else f"{self.held} of {self.total}"

    @property
    def words(self) -> str:
        """What is counted, in print."""
        return f"{self.name} hold" if self.held is not None else DOUBTS.get(self.name, self.name)


def count(rows: Iterable[Mapping[str, Any]]) -> list[Count]:
    """Count rows with `status`, `doubt` and `basis`; no doubt is "" or None.

    The decided ones come first, by basis; a kind of which there is no claim is left out.
    """
    rows = list(rows)
    counts = []
    for basis in BASES:
        decided = [r for r in rows if r["status"] not in UNDECIDED and r["basis"] == basis]
        held = sum(row["status"] == Status.PASS for row in decided)
        counts.append(Count(basis, len(decided), held))
    for doubt in Doubt:
        found = [row for row in rows if row["status"] == Status.OPEN and row["doubt"] == doubt]
        counts.append(Count(doubt, len(found)))
    for status in (Status.INCOMPLETE, Status.NOT_RUN):
        counts.append(Count(status, sum(row["status"] == status for row in rows)))
    return [one for one in counts if one.total]


def headline(rows: Iterable[Mapping[str, Any]]) -> str:
    """The counts in one line, those of the first basis first.

    Of the rows it also takes `limit`: what the setup allows, where that has been computed.
    """
    rows = list(rows)
    counts = count(rows)
    decided = [f"{one.text} {one.name}" for one in counts if one.held is not None]
    held = [f"{decided[0]} claims hold", *decided[1:]] if decided else ["no claim is decided"]
    doubts = [f"{one.total} {one.name}" for one in counts if one.name in DOUBTS]
    others = [f"{one.total} {one.name}" for one in counts if one.name in UNDECIDED]
    misses = [row for row in rows if row["status"] == Status.FAIL]
    bounded = sum(bool(row["limit"]) for row in misses)
    missed = f"{bounded} of the {len(misses)} misses beyond a bound of their setup"
    parts = [
        ", ".join(held),
        missed if bounded else "",
        f"open: {', '.join(doubts)}" if doubts else "",
        ", ".join(others),
    ]
    return "; ".join(part for part in parts if part)
