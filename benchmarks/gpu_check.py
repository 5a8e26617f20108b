"""Checks and times everything that needs a GPU, in one command: `python -m benchmarks.gpu_check`.

Only what `bench` needs, torch, pytest and (unless the library is given) nvcc are needed, and no
network. Each part runs in a process of its own for no longer than its budget, and its result is in
the JSON file as soon as it ends: one that crashes or hangs costs no other. Exit status: 0 if every
part passes, 1 if one fails or was not finished, 2 without the device, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.files import json_bytes, write_file
from bench.results.provenance import environment
from benchmarks import gpu_checks, gpu_times
from benchmarks.arguments import Arguments
from benchmarks.gpu_run import Part, Run, isolate
from engines.core.errors import UserError

FILE = "gpu-check.json"
TOTAL_S = 620.0  # of all parts: under eleven minutes with the start. Compiling takes from the last.
PARTS = (
    Part("library", gpu_checks.bring_library, 240),
    Part("versions", gpu_checks.check_versions, 20),
    Part("tokens", gpu_checks.check_tokens, 90),
    Part("kernel-grid", gpu_checks.check_grid, 60),
    Part("prompt-times", gpu_times.time_prompts, 30),
    Part("kernel-times", gpu_times.time_kernels, 60),
    Part("decode-times", gpu_times.time_decode, 60),
    Part("decode-kernels", gpu_times.profile_steps, 30),
    Part("swap", gpu_checks.force_swap, 30),
    Part("validate", gpu_times.validate, 210),
)


def print_results(record: dict[str, Any]) -> None:
    """Print what is held against a target, prompts' first calls, the simulation's errors."""
    for part in record["parts"].values():
        for target in part.get("targets", ()):
            state = {None: "not measured", True: "met", False: "MISSED"}[target["met"]]
            value = "" if target["value"] is None else f"{target['value']:.3f}, "
            print(f"{target['name']}: {value}{target['limit']}: {state}")
        for aim in part.get("validation", {}).get("aims", ()):
            print(
                f"simulated {aim['metric']}: off by {aim['median']:.1%} in the median, at most "
                f"{aim['worst']:.1%} (aim: {aim['limit']:.0%})"
            )
    for cudnn in (True, False):
        rows = record["parts"].get("prompt-times", {}).get("rows", [])
        if each := [row for row in rows if row["cudnn"] is cudnn]:
            first, again = (statistics.median(r[n] for r in each) for n in ("first_s", "again_s"))
            kernels = "cuDNN allowed" if cudnn else "without cuDNN"
            print(f"a prompt's attention, {kernels}: {1e3 * first:.2f} ms, again {1e3 * again:.2f}")
    rows = record["parts"].get("decode-times", {}).get("rows", [])
    if rows:
        print(f"host time of a decode step: {statistics.median(r['host_us'] for r in rows):.0f} us")


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command."""
    parser = Arguments(description="Check and time everything that needs a GPU.")
    names = [part.name for part in PARTS]
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--out", type=Path, default=Path("artifacts") / "gpu-check")
    parser.add_argument("--quick", action="store_true", help="little of everything, as a test")
    parser.add_argument("--only", nargs="+", choices=names, help="these parts, without a total")
    parser.add_argument("--skip", nargs="+", choices=names, default=[], help="all other parts")
    parser.add_argument("--library", type=Path, help="kernels that were compiled elsewhere")
    parser.add_argument("--sanitize", action="store_true", help="grid under compute-sanitizer")
    return parser.parse_args(arguments)


def check(options: argparse.Namespace) -> dict[str, Any]:
    """Run the parts that were chosen and write the record after each; returns it."""
    from engines.kernels.driver import require_cuda

    if options.device == "cuda":
        require_cuda()
    parts = [
        p for p in PARTS if p.name in (options.only or [p.name]) and p.name not in options.skip
    ]
    total_s = math.inf if options.only or options.device == "cpu" else TOTAL_S
    names = ("device", "out", "quick", "library", "sanitize")
    run = Run(
        **{name: getattr(options, name) for name in names},
        deadline=time.monotonic() + total_s,
    )
    started, machine = datetime.now(UTC), environment(gpu=run.device == "cuda")
    found: dict[str, dict[str, Any]] = {}
    record: dict[str, Any] = {"passed": False, "parts": found}
    for part in parts:
        found[part.name] = outcome = isolate(part, run)
        state = "ok" if outcome["passed"] else f"FAILED {outcome.get('error', '')}"
        print(f"{part.name:18} {outcome['seconds']:6.1f} s  {state}", flush=True)
        complete = len(found) == len(parts)
        record = {
            "format": 3,
            "quick": run.quick,
            "passed": complete and all(each["passed"] for each in found.values()),
            "parts": found,
            "provenance": {
                **machine,
                "started": started.isoformat(timespec="seconds"),
                "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        }
        write_file(run.out / FILE, json_bytes(record))
    return record


def main(arguments: Sequence[str] | None = None) -> int:
    """Check from the command line."""
    options = read_arguments(arguments)
    try:
        record = check(options)
    except ImportError as error:
        print(f"error: {error}: torch and what bench needs must be installed", file=sys.stderr)
        return 2
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print_results(record)
    print(f"{'all parts pass' if record['passed'] else 'PARTS FAILED'}: {options.out / FILE}")
    return 0 if record["passed"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
