"""Measure what every figure costs in simulation and write the table that README and help show.

Run on an idle machine with two cores: `python -m tools.measure_times`, half an hour for all
efforts. Each figure runs by its command in a fresh folder, two points at a time. The table is
written after each figure; `--missing` measures only what it lacks, so that an interrupted
measurement goes on.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.experiments import registry
from bench.experiments.effort import Effort
from bench.experiments.times import FILE, Cost, cost_of, to_text

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "bench" / "experiments" / FILE
JOBS = 2
NAMES = tuple(
    figure.name
    for figure in registry.FIGURES.values()
    if not (figure.pending or figure.only_measured)
)


def measure(name: str, effort: Effort) -> Cost:
    """Run one figure's command; raises CalledProcessError if it fails."""
    with tempfile.TemporaryDirectory() as place:
        words = [sys.executable, "-m", "bench.cli", "figure", name, "--backend", "sim", "--quiet"]
        words += ["--jobs", str(JOBS), "--artifacts", place, *effort.options]
        start = time.monotonic()
        subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - start
        size = sum(path.stat().st_size for path in Path(place).rglob("*") if path.is_file())
    return Cost(round(seconds, 1), round(size / 1e6, 1))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the efforts asked for; keep what the table has of the others."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--effort", action="append", choices=[e.value for e in Effort])
    parser.add_argument("--figure", action="append", choices=NAMES)
    parser.add_argument("--missing", action="store_true", help="only what the table lacks")
    given = parser.parse_args(arguments)
    asked = [Effort(value) for value in given.effort or list(Effort)]
    table: dict[str, dict[Effort, Cost]] = {}
    for name in NAMES:
        known = {effort: cost_of(name, effort) for effort in Effort}
        table[name] = {effort: cost for effort, cost in known.items() if cost is not None}
    for effort in asked:
        for name in given.figure or NAMES:
            if given.missing and effort in table[name]:
                continue
            table[name][effort] = measure(name, effort)
            print(f"{name} {effort.value}: {table[name][effort]}", flush=True)
            TABLE.write_text(to_text(table), encoding="utf-8")  # an interruption loses one figure


if __name__ == "__main__":
    main()
