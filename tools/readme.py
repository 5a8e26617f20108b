"""Write the parts of README and docs that follow from the registry and the reference results.

`python -m tools.readme` does so in place, between `<!-- NAME -->` and `<!-- end of NAME -->`. A
test holds the documents against `blocks()`, so that no number in them can grow old unseen.
"""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from bench.claims.counts import headline
from bench.claims.reference import read_claims, read_points, usual_directory
from bench.cli import main as bench
from bench.experiments import registry, times
from bench.experiments.effort import Effort
from bench.experiments.tables import Choice
from tools import appendix
from tools.latex import to_latex

ROOT = Path(__file__).parents[1]
README, DOCS = ROOT / "README.md", ROOT / "docs"
RUNNING, SIMULATOR = DOCS / "running.md", DOCS / "simulator.md"
EXAMPLE = "bench run --system astra --model opt-13b --workload sharegpt --rate 2 --duration 60"
TIMES = ("wall_s", "host_us_per_step")  # rows of the example that no two runs share
REPLACED = str.maketrans("┏┳┓━┃┡╇┩└┴┘─│", "+++-|+++++" + "+-|")


def blocks() -> dict[Path, dict[str, str]]:
    """Every generated part by its document and its name."""
    return {
        README: {
            "claims": appendix.claims_table(),
            "quick": f"```\n{quick_text()}\n```",
            "evidence": evidence_text(),
            "environment": f"Made on {appendix.environment()}.",
            "misses": appendix.misses_text(),
        },
        RUNNING: {
            "figures": f"{invoke('figures', '--markdown')}\n\nTimes: {times.machine()}.",
            "run": f"```\n$ {EXAMPLE}\n{run_text()}\n```",
        },
        SIMULATOR: {"calibrations": calibrations()},
    }


def documents() -> dict[Path, str]:
    """The text of each document that is generated as a whole."""
    text = appendix.markdown(quick=quick_text())
    return {DOCS / "appendix.md": text, DOCS / "appendix.tex": to_latex(text)}


def invoke(*words: str) -> str:
    """What a `bench` command prints on standard output."""
    done = CliRunner().invoke(bench, list(words))
    assert done.exit_code == 0, done.output
    return done.stdout.rstrip()


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
    told = headline(rows).replace("; ", ";\n... ")
    return "\n".join(
        (
            "$ make all QUICK=1",
            f"... {told} (sim, {points} points, ...)",
            "$ bench reference --quick",
            f"... {points} of {points} points run equal the reference; it holds {points}",
        )
    )


def evidence_text() -> str:
    """What the report counts."""
    rows = read_claims(ROOT / usual_directory(Choice()))
    return (
        f"After `make all` the report says:\n{headline(rows)}.\n"
        "Where PyTorch is installed, Fig. 18a is measured on this machine: one claim more."
    )


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
    for path, text in documents().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
