"""Write the parts of README and docs that follow from the registry and the reference results.

`python -m tools.readme` does so in place, between `<!-- NAME -->` and `<!-- end of NAME -->`. A
test holds the documents against `blocks()`, so that no number in them can grow old unseen.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from bench.claims.reference import read_claims, read_points, usual_directory
from bench.claims.verdicts import figure_label, paper_text, tolerance_text
from bench.cli import main as bench
from bench.experiments import registry
from bench.experiments.effort import Effort
from bench.experiments.model import Claim
from bench.experiments.tables import Choice

ROOT = Path(__file__).parents[1]
README, RUNNING = ROOT / "README.md", ROOT / "docs" / "running.md"
EXAMPLE = "bench run --system astra --model opt-13b --workload sharegpt --rate 2 --duration 60"
TIMES = ("wall_s", "host_us_per_step")  # rows of the example that no two runs share
REPLACED = str.maketrans("┏┳┓━┃┡╇┩└┴┘─│", "+++-|+++++" + "+-|")


@dataclass(frozen=True)
class Headline:
    """A row of the table of claims, as `headlines.toml` describes it."""

    figure: str
    words: str
    prefix: str
    shown: str = ""


HEADLINES = tuple(
    Headline(**headline)
    for headline in tomllib.loads((ROOT / "tools" / "headlines.toml").read_text(encoding="utf-8"))[
        "headlines"
    ]
)


def blocks() -> dict[Path, dict[str, str]]:
    """Every generated part by its document and its name."""
    return {
        README: {
            "claims": claims_table(),
            "figures": invoke("figures", "--markdown"),
            "calibrations": calibrations(),
            "quick": f"```\n{quick_text()}\n```",
            "evidence": evidence_text(),
        },
        RUNNING: {"run": f"```\n$ {EXAMPLE}\n{run_text()}\n```"},
    }


def invoke(*words: str) -> str:
    """What a `bench` command prints on standard output."""
    done = CliRunner().invoke(bench, list(words))
    assert done.exit_code == 0, done.output
    return done.stdout.rstrip()


def claims_table() -> str:
    """Claims with the paper's numbers and those of the committed reference."""
    rows = read_claims(ROOT / usual_directory(Choice()))
    head = ("", "figure", "claim", "paper", "expect", "tolerance", "holds", "basis")
    lines = [list(head), ["---"] * len(head)]
    for index, headline in enumerate(HEADLINES, start=1):
        found = [
            row
            for row in rows
            if row["figure"] == headline.figure and row["claim"].startswith(headline.prefix)
        ]
        shown = [row for row in found if row["claim"].startswith(headline.shown)]
        claims = [_claim(row) for row in shown]
        held = sum(row["verdict"] == "pass" for row in found)
        bases = dict.fromkeys(row["basis"].split(":")[0].split(";")[0] for row in found)
        lines.append(
            [
                f"C{index}",
                figure_label(headline.figure),
                headline.words,
                _joined(paper_text(claim) for claim in claims),
                _joined(_ours(row, claim) for row, claim in zip(shown, claims, strict=True)),
                _joined(tolerance_text(claim) for claim in claims),
                f"{held} of {len(found)}",
                ", ".join(bases),
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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
    return (
        f"{row['bound']}{value:.0f}{unit}" if value >= 1000 else f"{row['bound']}{value:.3g}{unit}"
    )


def _joined(texts: Iterable[str]) -> str:
    """Texts in a row: equal ones once, a common unit once."""
    found = list(texts)
    if len(set(found)) == 1:
        return found[0]
    units = {text.partition(" ")[2] for text in found}
    if len(units) == 1 and " to " not in found[0] and (unit := units.pop()):
        return f"{', '.join(text.partition(' ')[0] for text in found)} {unit}"
    return ", ".join(found)


def calibrations() -> str:
    """The parameters that were fitted, and on what."""
    lines = ["| parameter | of | fitted on |", "|---|---|---|"]
    lines += [f"| {c.parameter} | {c.where} | {c.fitted_on} |" for c in registry.CALIBRATIONS]
    return "\n".join(lines)


def quick_text() -> str:
    """The last lines of a quick run: its verdicts, and its comparison with the reference."""
    directory = ROOT / usual_directory(Choice.of(effort=Effort.QUICK))
    rows = read_claims(directory)
    points = len(read_points(directory))
    told = _counts([row["verdict"] for row in rows])
    return "\n".join(
        (
            "$ make all QUICK=1",
            f"... {told} (sim, {points} points, ...)",
            "$ bench reference --quick",
            f"... {points} of {points} points run equal the reference; it holds {points}",
        )
    )


def evidence_text() -> str:
    """What the report counts: off the figures' curves, and with capacity searches."""
    rows = read_claims(ROOT / usual_directory(Choice()))
    over_seeds = [row["searched_verdict"] or row["verdict"] for row in rows]
    return (
        f"The report says after `make all`: {_counts([row['verdict'] for row in rows])}. After\n"
        f"`make capacity report`: {_counts(over_seeds)}; *open* are ratios that\n"
        "miss by less than the seeds differ. Where PyTorch is installed, Fig. 18a is measured on\n"
        "this machine: one claim more."
    )


def _counts(verdicts: Sequence[str]) -> str:
    """The report's headline over these verdicts."""
    told = [f"{verdicts.count('pass')} of {len(verdicts)} claims hold"]
    told.append(f"{verdicts.count('fail')} do not")
    others = {status: verdicts.count(status) for status in ("open", "incomplete", "not run")}
    return ", ".join([*told, *(f"{count} {status}" for status, count in others.items() if count)])


def run_text() -> str:
    """What the example prints, in plain characters, without the rows that tell its time."""
    lines = invoke(*EXAMPLE.split()[1:]).translate(REPLACED).splitlines()
    return "\n".join(line for line in lines if not any(name in line for name in TIMES))


def replace_blocks(text: str, parts: dict[str, str]) -> str:
    """The text with each part between its marks; every part must have its marks once."""
    for name, part in parts.items():
        start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        assert (text.count(start), text.count(end)) == (1, 1), f"the text has not one '{name}'"
        before, _, rest = text.partition(start)
        text = f"{before}{start}\n{part}\n{end}{rest.partition(end)[2]}"
    return text


def main() -> None:
    """Write the documents anew."""
    for path, parts in blocks().items():
        text = replace_blocks(path.read_text(encoding="utf-8"), parts)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
