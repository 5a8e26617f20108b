"""The artifact appendix, in Markdown and LaTeX, from the registry and the reference results."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2

from bench.claims.reference import read_claims, usual_directory
from bench.claims.verdicts import Doubt, figure_label, paper_text, tolerance_text
from bench.experiments import registry
from bench.experiments.model import Claim
from bench.experiments.tables import Choice
from bench.experiments.times import costs

ROOT = Path(__file__).parents[1]
FACTS = ("operating system", "platform", "processor", "cores", "Python", "packages", "commit")


@dataclass(frozen=True)
class Headline:
    """A claim as the documents tell it, from `headlines.toml`; it may stand for several numbers."""

    figure: str
    prefix: str
    words: str
    claim: str
    look: str
    shown: str = ""


@dataclass(frozen=True)
class Told:
    """A headline with its numbers, all in print."""

    name: str
    headline: Headline
    paper: str
    ours: str
    allowed: str
    holds: str
    bases: str
    why: str = ""  # it does not hold in full

    @property
    def label(self) -> str:
        """What its figure is called."""
        return figure_label(self.headline.figure)


HEADLINES = tuple(
    Headline(**headline)
    for headline in tomllib.loads((ROOT / "tools" / "headlines.toml").read_text(encoding="utf-8"))[
        "headlines"
    ]
)


def told_claims() -> list[Told]:
    """All headlines with the paper's numbers and those of the committed reference."""
    rows = read_claims(ROOT / usual_directory(Choice()))
    return [_told(f"C{index}", told, rows) for index, told in enumerate(HEADLINES, start=1)]


def _told(name: str, headline: Headline, rows: list[dict[str, Any]]) -> Told:
    of_figure = [row for row in rows if row["figure"] == headline.figure]
    found = [row for row in of_figure if row["claim"].startswith(headline.prefix)]
    shown = [row for row in found if row["claim"].startswith(headline.shown)]
    claims = [_claim(row) for row in shown]
    held, left = (sum(row["status"] == status for row in found) for status in ("pass", "open"))
    return Told(
        name,
        headline,
        paper=joined(_ranges_once(paper_text(claim) for claim in claims)),
        ours=joined(_ours(row, claim) for row, claim in zip(shown, claims, strict=True)),
        allowed=joined(dict.fromkeys(tolerance_text(claim) for claim in claims)),
        holds=f"{held} of {len(found)}{f', {left} open' if left else ''}",
        bases=", ".join(dict.fromkeys(row["basis"] for row in found)),
        why=next((_why(row) for row in found if row["status"] != "pass"), ""),
    )


def _why(row: dict[str, Any]) -> str:
    """Why a number does not hold, in one sentence."""
    claim = _claim(row)
    if row["doubt"] == Doubt.ASSUMED:
        return f"open, since an assumption decides it: {_sentence(claim.assumed)}"
    doubt = f"open ({row['doubt']}); " if row["doubt"] else ""
    return doubt + _sentence(claim.notes or row["reason"])


def _sentence(text: str) -> str:
    return text.partition(". ")[0]


def _claim(row: dict[str, Any]) -> Claim:
    figure = registry.FIGURES.get(row["figure"])
    known = registry.TABLE1_CLAIMS if figure is None else figure.claims
    found = [claim for claim in known if claim.text == row["claim"]]
    assert len(found) == 1, f"the reference has a claim that the registry lacks: {row['claim']}"
    return found[0]


def _ours(row: dict[str, Any], claim: Claim) -> str:
    value = row["ours"]
    if math.isnan(value):
        return "-"
    unit = {"": "", "x": "x"}.get(claim.unit, f" {claim.unit}")
    digits = f"{value:.0f}" if value >= 1000 else f"{value:.3g}"
    return f"{row['bound']}{digits}{unit}"


def joined(texts: Iterable[str]) -> str:
    """Texts in a row: if all are equal one of them, and a unit that all have once."""
    found = list(texts)
    if len(set(found)) == 1:
        return found[0]
    parts = [text.rpartition(" ") for text in found]
    units = {unit if before else "" for before, _, unit in parts}
    if len(units) == 1 and (unit := units.pop()) and not unit[0].isdigit():
        return f"{', '.join(before for before, _, _ in parts)} {unit}"
    return ", ".join(found)


def _ranges_once(texts: Iterable[str]) -> list[str]:
    """The texts; ranges that several claims share once."""
    found = list(texts)
    return list(dict.fromkeys(found)) if all(" to " in text for text in found) else found


def claims_table() -> str:
    """The README's table: short enough for a terminal."""
    head = ("", "figure", "claim", "paper", "here", "holds")
    lines = [head, ("---",) * len(head)]
    for told in told_claims():
        unit = told.paper.rpartition(" ")[2]
        ours = told.ours.removesuffix(f" {unit}")
        lines.append((told.name, told.label, told.headline.words, told.paper, ours, told.holds))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def misses(claims: Iterable[Told]) -> dict[str, list[str]]:
    """The claims that do not hold in full, by the reason."""
    found: dict[str, list[str]] = {}
    for told in claims:
        if told.why:
            found.setdefault(told.why, []).append(told.name)
    return found


def misses_text() -> str:
    """Which claims do not hold in full, as an item of README's list."""
    names = [told.name for told in told_claims() if told.why]
    reasons = "docs/appendix.md#what-does-not-hold-in-full-and-why"
    return f"- {', '.join(names)} do not hold in full: [why]({reasons})."


def environment() -> str:
    """Where the reference results were made."""
    readme = ROOT / usual_directory(Choice()) / "README.md"
    facts = dict(re.findall(r"^\| ([\w ]+) \| (.*) \|$", readme.read_text("utf-8"), re.M))
    words = {"cores": "{} cores", "Python": "Python {}", "commit": "commit {:.9}"}
    found = [(name, facts[name].replace("; ", ", ")) for name in FACTS if name in facts]
    return ", ".join(words.get(name, "{}").format(value) for name, value in found)


def minutes(seconds: float) -> str:
    """Compute-minutes in print."""
    value = seconds / 60
    return "0.1" if value < 0.15 else f"{value:.1f}" if value < 10 else f"{value:.0f}"


def cost(effort: str, unit: str) -> float:
    """What all figures cost together."""
    return sum(costs(name).get(effort, {}).get(unit, 0.0) for name in registry.FIGURES)


def experiments(claims: list[Told]) -> list[dict[str, str]]:
    """One entry for each command, with the experiments that it is."""
    found = []
    for figure, group in groupby(claims, key=lambda told: told.headline.figure):
        looks = {told.name.replace("C", "E"): told.headline.look for told in group}
        simulated = figure in registry.FIGURES
        seconds = costs(figure)["full"]["seconds"] if simulated else 0.0
        found.append(
            {
                "looks": "; ".join(f"**{name}** {look}" for name, look in looks.items()),
                "command": f"make {figure if simulated else 'report'}",
                "human": str(len(looks)),
                "minutes": minutes(seconds),
            }
        )
    return found


def markdown(*, quick: str) -> str:
    """The appendix as Markdown; `quick` is what a quick run prints at its end."""
    claims = told_claims()
    seconds = {effort: cost(effort, "seconds") for effort in ("quick", "full")}
    return (
        jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True)
        .from_string((ROOT / "tools" / "appendix.md.j2").read_text(encoding="utf-8"))
        .render(
            claims=claims,
            misses=misses(claims),
            experiments=experiments(claims),
            environment=environment(),
            quick=quick,
            total={
                "minutes": minutes(seconds["full"]),
                "quick": minutes(seconds["quick"]),
                "megabytes": f"{cost('full', 'megabytes'):.0f}",
            },
        )
        + "\n"
    )
