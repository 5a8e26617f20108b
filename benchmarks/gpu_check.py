"""Checks and times everything that needs a GPU, in one command: `python -m benchmarks.gpu_check`.

Only what `bench` needs, torch, pytest and (unless a built library is there) nvcc are needed, and no
network. Parts follow each other; one that fails is recorded and the rest goes on. Everything goes
into one JSON file, written after each part: a device that hangs or a run that is killed leaves the
rest. Exit status: 0 if every part passes, 1 if one fails or was not finished, 2 without the device.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.files import json_bytes, write_file
from bench.results.provenance import environment
from benchmarks.gpu_parts import PARTS, Part, Run, release
from engines.core.errors import UserError

FILE = "gpu-check.json"
TOTAL_S = 450.0  # of all usual parts; below the eight minutes that are allowed, the start included


def run_part(part: Part, run: Run) -> dict[str, Any]:
    """Run one part; whatever goes wrong in it becomes its record."""
    import torch

    started, threads = time.monotonic(), torch.get_num_threads()
    if run.left_s < part.needs_s:
        return {"passed": False, "error": "not started: the time was used up", "seconds": 0.0}
    deadline = min(run.deadline, started + part.budget_s)
    try:
        record = {"passed": True, **part.run(replace(run, deadline=deadline))}
    except Exception as error:  # a part must not keep the others from running
        lines = [] if isinstance(error, UserError) else traceback.format_exc().splitlines()
        record = {"passed": False, "error": f"{type(error).__name__}: {error}", "traceback": lines}
    torch.set_num_threads(threads)
    try:
        release(run.device)
    except RuntimeError as error:  # a kernel's illegal access is met again by whoever asks next
        record = {"error": f"the device is lost: {error}", **record, "passed": False}
    return {**record, "seconds": time.monotonic() - started}


def describe_machine(device: str) -> dict[str, Any]:
    """Sources, packages, machine, and of a GPU its name, driver, memory and compiler."""
    import torch

    from engines.execution.device import device_name
    from engines.kernels.build import find_compiler

    found = environment(gpu=device == "cuda")
    found["torch"], found["cuda"] = torch.__version__, torch.version.cuda
    found["device"] = device_name(torch.device(device))
    if device == "cuda":
        query = ("nvidia-smi", "--query-gpu=driver_version,memory.total", "--format=csv,noheader")
        found["driver"] = _first_line(*query)
        found["nvcc"] = find_compiler("cuda")
        found["capability"] = list(torch.cuda.get_device_capability())
    return found


def _first_line(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.splitlines()), None)


def check_device(run: Run, parts: Sequence[Part]) -> Iterator[dict[str, Any]]:
    """Run parts; yields the record after each, whole after the last."""
    started = datetime.now(UTC)
    machine = describe_machine(run.device)  # now: a device that is lost answers nothing
    records: dict[str, dict[str, Any]] = {}
    for part in parts:
        records[part.name] = record = run_part(part, run)
        state = "ok" if record["passed"] else f"FAILED {record.get('error', '')}"
        print(f"{part.name:18} {record['seconds']:6.1f} s  {state}", flush=True)
        complete = len(records) == len(parts)
        yield {
            "format": 2,
            "quick": run.quick,
            "passed": complete and all(each["passed"] for each in records.values()),
            "parts": records,
            "provenance": {
                **machine,
                "started": started.isoformat(timespec="seconds"),
                "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        }


def print_results(record: dict[str, Any]) -> None:
    """Print what is held against a target, the host's time in a decode step, the point's errors."""
    for part in record["parts"].values():
        for target in part.get("targets", ()):
            state = {None: "not measured", True: "met", False: "MISSED"}[target["met"]]
            value = "" if target["value"] is None else f"{target['value']:.3f}, "
            print(f"{target['name']}: {value}{target['limit']}: {state}")
        for name, error in part.get("error_pct", {}).items():
            told = "-" if error is None else f"{error:+.1f} %"
            print(f"{part['system']} at {part['rate']:g} req/s, simulated {name}: {told}")
    rows = record["parts"].get("decode-times", {}).get("rows", [])
    if rows:
        print(f"host time of a decode step: {statistics.median(r['host_us'] for r in rows):.0f} us")


def main(arguments: Sequence[str] | None = None) -> int:
    """Check from the command line."""
    parser = argparse.ArgumentParser(description="Check and time everything that needs a GPU.")
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--out", type=Path, default=Path("artifacts") / "gpu-check")
    parser.add_argument("--quick", action="store_true", help="little of everything, as a test")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=[part.name for part in PARTS],
        help="these parts, for as long as they take (default: those that fit eight minutes)",
    )
    options = parser.parse_args(arguments)
    parts = [part for part in PARTS if (part.name in options.only if options.only else part.usual)]
    deadline = float("inf") if options.only else time.monotonic() + TOTAL_S
    run = Run(options.device, options.quick, options.out, deadline)
    try:
        from engines.kernels.driver import require_cuda

        if options.device == "cuda":
            require_cuda()
        content = b""
        for record in check_device(run, parts):
            content = json_bytes(record)
            write_file(options.out / FILE, content)
    except ImportError as error:
        print(f"error: {error}: torch and what bench needs must be installed", file=sys.stderr)
        return 2
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    record = json.loads(content)
    print_results(record)
    print(f"{'all parts pass' if record['passed'] else 'PARTS FAILED'}: {options.out / FILE}")
    return 0 if record["passed"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
