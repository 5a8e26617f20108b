"""Measure what every figure costs in simulation, for the tables of README and `make help`.

Run on an idle machine with two cores: `python -m tools.measure_times`, ten minutes. Each figure
runs by its command in a fresh folder, two points at a time. The table is written after each figure,
and says on which machine; efforts may be named (`quick`, `short`, `full`) to measure only these.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.experiments import registry
from bench.experiments.effort import Effort
from bench.experiments.times import PATH
from bench.results.provenance import environment

JOBS = 2
NAMES = tuple(figure.name for figure in registry.FIGURES.values() if not figure.only_measured)


def measure(name: str, effort: Effort) -> dict[str, float]:
    """Run one figure's command; raises CalledProcessError if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "bench", "figure", name, "--backend", "sim", "--quiet"]
        words += ["--jobs", str(JOBS), "--artifacts", folder, f"--{effort}"]
        start = time.monotonic()
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - start
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    return {"seconds": round(seconds, 1), "megabytes": round(size / 1e6, 1)}


def this_machine() -> str:
    """What the times are of, in one line."""
    facts = environment()
    form = "compiled" if facts["engine_compiled"] else "as plain Python"
    return (
        f"{facts['os']}, {facts['cpu']} ({facts['cores']} cores), Python {facts['python']}, the "
        f"engine {form}, commit {facts['git_commit'][:9]}"
    )


def main(*efforts: str) -> None:
    """Measure the efforts named, or all; the table keeps what it has of the others."""
    table = json.loads(PATH.read_text(encoding="utf-8"))
    table["machine"] = this_machine()
    for effort in map(Effort, efforts or list(Effort)):
        for name in NAMES:
            table.setdefault(name, {})[effort.value] = measure(name, effort)
            print(f"{name} {effort.value}: {table[name][effort.value]}", flush=True)
            PATH.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
