"""The artifact appendix: every claim has its experiment, and the LaTeX compiles to two pages."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bench.experiments import registry
from tools import appendix
from tools.latex import to_latex

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "appendix.md").read_text(encoding="utf-8")
LATEX = shutil.which("pdflatex")
CLAIMS = [told.name for told in appendix.told_claims()]


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_has_its_experiment(name: str) -> None:
    assert len(re.findall(rf"^- \*\*{name}\*\* \(", TEXT, re.M)) == 1
    (line,) = [line for line in TEXT.splitlines() if f"**{name.replace('C', 'E')}**" in line]
    command, human, compute = re.findall(r"^- `make (.*?)` \[(\d+) \+ ([\d.]+)\]", line)[0]
    assert command in (*registry.FIGURES, "report")
    assert int(human) == line.count("**E")
    assert float(compute) > 0


def test_every_figure_with_claims_has_an_experiment() -> None:
    judged = {f.name for f in registry.FIGURES.values() if f.claims and not f.only_measured}
    assert judged == {one["command"].removeprefix("make ") for one in EXPERIMENTS} - {"report"}


EXPERIMENTS = appendix.experiments(appendix.told_claims())


@pytest.mark.skipif(LATEX is None, reason="no pdflatex: apt install texlive-latex-recommended")
def test_latex_source_compiles_to_two_pages(tmp_path: Path) -> None:
    shutil.copy(ROOT / "docs" / "appendix.tex", tmp_path)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "appendix.tex"],
        cwd=tmp_path, capture_output=True, text=True, check=False, errors="replace",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    assert "(2 pages" in done.stdout
    assert [float(found) for found in re.findall(r"Overfull \\hbox \((.*?)pt", done.stdout)] == []


def test_signs_of_latex_are_escaped_and_what_is_unknown_is_refused() -> None:
    text = to_latex("# 5 % of *a_b* & `c/{d}` [x](y.md) [z](https://e.org/f)\n\n- ±1\n")
    assert r"\section*{5 \% of \emph{a\_b} \& \texttt{c/\allowbreak \{d\}} {x}" in text
    assert r"\href{https://e.org/f}{z}}" in text
    assert "\\item $\\pm$1" in text
    with pytest.raises(KeyError):
        to_latex("> quoted")
