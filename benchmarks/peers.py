"""Ours beside NVIDIA's DynoSim, on the same traces: `python -m benchmarks.peers`; see peers.md.

DynoSim lives in an environment of its own (`benchmarks.environments`), which is made when it is
missing. Rounds are interleaved and what counts is the ratio within a round, since a shared
machine's speed drifts. A time is that of the simulation alone: no start of Python, no reading of
the trace, no writing.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from bench.point.platform import simulate
from bench.point.serve import run_point
from bench.point.setting import settle
from bench.point.spec import PointSpec
from benchmarks import environments
from benchmarks.arguments import Arguments, whole
from engines.core.errors import UserError
from engines.sim.cost import Work
from engines.sim.executor import SimExecutor

TRACES = {
    "sharegpt": PointSpec(system="astra", workload="sharegpt", rate=2.0, duration=3600.0),
    "chat": PointSpec(system="astra", workload="chat", rate=4.0, duration=300.0),
}
EQUAL = "DynoSim, our step times"  # so that as many sequences run at once as in ours
TARGETS = {"sharegpt": 2.5, "chat": 1.5}  # how many times as fast as that
BLOCK_SIZE, NUM_BLOCKS = 16, 981  # of OPT-13B on an A100 with 40 GB
MOST_RUNNING, MOST_TOKENS = 256, 2560
_SCRIPT = Path(__file__).with_name("dynosim.py")
_TOKENS = np.array([16, 64, 256, 1024, 2048, 4096, 8192, 12288, BLOCK_SIZE * NUM_BLOCKS])
_LENGTHS = np.array([1, 16, 64, 128, 256, 512, 1024, 2048, MOST_TOKENS])


@dataclass(frozen=True)
class Run:
    """Seconds of one simulation of a trace, the tokens that it put out, and the trace's length."""

    seconds: float
    tokens: int
    simulated_s: float


class Ours:
    """The simulation of Astra."""

    name = "ours"

    def run(self, name: str, folder: Path) -> Run:
        """Simulate a trace."""
        outcome = run_point(TRACES[name])
        requests = outcome.requests
        return Run(outcome.metrics["wall_s"], int(requests["output_len"].sum()),
                   float(requests["finish_s"].max()))  # fmt: skip


@dataclass(frozen=True)
class DynoSim:
    """NVIDIA's simulation with the arguments of its engine, in its own environment."""

    name: str
    python: Path
    engine: Mapping[str, Any]

    def run(self, name: str, folder: Path) -> Run:
        """Simulate a trace; raises UserError with the last line of what it says."""
        job = {"engine": self.engine, "trace": str(folder / f"{name}.jsonl")}
        printed = environments.run(
            [self.python, _SCRIPT], name=self.name, input=json.dumps(job), cwd=folder
        )
        found = json.loads(printed.splitlines()[-1])
        return Run(found["seconds"], found["tokens"], found["simulated_s"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both, print a table, and return 1 if a target is missed."""
    parser = Arguments(prog="python -m benchmarks.peers", description="Speed beside DynoSim.")
    parser.add_argument("--rounds", type=whole, default=5, help="interleaved rounds (default: 5)")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("artifacts/peers"),
        help="of traces and results (default: artifacts/peers)",
    )
    options = parser.parse_args(arguments)
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    write_traces(folder)
    try:
        contestants = [Ours(), *dynosims(folder)]
        results = {name: race(name, contestants, options.rounds, folder) for name in TRACES}
    except UserError as error:
        parser.error(str(error))
    text = {name: {who: [vars(run) for run in runs] for who, runs in each.items()}
            for name, each in results.items()}  # fmt: skip
    (folder / "peers.json").write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")
    return 0 if tell(results) else 1


def race(
    name: str, contestants: Sequence[Ours | DynoSim], rounds: int, folder: Path
) -> dict[str, list[Run]]:
    """Interleaved runs of a trace by contestant; raises UserError if one fails."""
    found: dict[str, list[Run]] = {each.name: [] for each in contestants}
    for _ in range(rounds):
        for each in contestants:
            found[each.name].append(each.run(name, folder))
    return found


def ratio(runs: Sequence[Run], ours: Sequence[Run]) -> float:
    """How many times as long theirs takes: the median over rounds."""
    return statistics.median(a.seconds / b.seconds for a, b in zip(runs, ours, strict=True))


def tell(results: Mapping[str, Mapping[str, Sequence[Run]]]) -> bool:
    """Print a table for each trace; returns whether all targets are reached."""
    holds = True
    for name, found in results.items():
        table = Table(
            "simulator", "seconds", "output tokens/s", "simulated", "ours is faster by", title=name
        )
        for who, runs in found.items():
            seconds = statistics.median(run.seconds for run in runs)
            times = ratio(runs, found["ours"])
            table.add_row(
                who, f"{seconds:.3g}", f"{runs[0].tokens / seconds:,.0f}",
                f"{runs[0].simulated_s:,.0f} s", f"{times:.2f}",
            )  # fmt: skip
            if who == EQUAL:
                holds = holds and times >= TARGETS[name]
        Console().print(table)
    aims = ", ".join(f"{least:g} on {name}" for name, least in TARGETS.items())
    print(f"aims over {EQUAL}: {aims}: {'reached' if holds else 'missed'}")
    return holds


def write_traces(folder: Path) -> None:
    """Every trace as Mooncake's JSONL, and our step times for DynoSim."""
    for name, spec in TRACES.items():
        requests = run_point(spec).requests
        columns = ("arrival_s", "input_len", "output_len")
        rows = list(zip(*(requests[column].tolist() for column in columns), strict=True))
        lines, used = [], 0
        for arrival_s, input_len, output_len in rows:
            blocks = -(-input_len // BLOCK_SIZE)
            lines.append({"timestamp": 1e3 * arrival_s, "input_length": input_len,
                          "output_length": output_len,
                          "hash_ids": list(range(used, used + blocks))})  # fmt: skip
            used += blocks  # nothing is shared
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    np.savez(folder / "steps.npz", **step_times())


def step_times() -> dict[str, NDArray[np.float64]]:
    """Our prices of a decode step by tokens in the cache and by each one's context, in ms."""
    spec = next(iter(TRACES.values()))
    platform = simulate(spec)
    executor = platform.create_executor(settle(spec, platform).config, spec.seed)
    assert isinstance(executor, SimExecutor), "a simulated point is priced"
    cost = executor.cost

    def decode_ms(tokens: int, context: int) -> float:
        n = max(1, round(tokens / context))
        return 1e3 * cost.decode_seconds(n, tokens, groups=n, beam_groups=0)

    def prompt_ms(length: int) -> float:
        return 1e3 * cost.seconds(
            Work(prompts=1, prompt_tokens=length, groups=1, prompt_squares=length**2)
        )

    contexts = _LENGTHS[1:-1]
    return {
        "prefill_isl": _LENGTHS.astype(float),
        "prefill_ttft_ms": np.array([prompt_ms(int(length)) for length in _LENGTHS]),
        "decode_active_kv_tokens": _TOKENS.astype(float),
        "decode_context_length": contexts.astype(float),
        "decode_itl": np.array([[decode_ms(int(t), int(c)) for c in contexts] for t in _TOKENS]),
    }


def dynosims(folder: Path) -> list[DynoSim]:
    """NVIDIA's, with its own step times and with ours; raises UserError if it does not install."""
    python = environments.find("dynosim") or environments.create("dynosim")
    engine = {"block_size": BLOCK_SIZE, "num_gpu_blocks": NUM_BLOCKS, "max_num_seqs": MOST_RUNNING,
              "max_num_batched_tokens": MOST_TOKENS, "enable_prefix_caching": False,
              "enable_chunked_prefill": False}  # fmt: skip
    priced = {**engine, "planner_profile_data": str(folder / "steps.npz")}
    return [DynoSim("DynoSim, its own step times", python, engine), DynoSim(EQUAL, python, priced)]


if __name__ == "__main__":
    sys.exit(main())
