"""Checks and times everything that needs a GPU, in one command: `python -m benchmarks.gpu_check`.

Run from the repository's root, `make gpu-check` or the line above; only torch, numpy and (unless a
built library is there) nvcc are needed, and no network. Sections follow each other, each within a
budget of time; one that fails is recorded and the rest goes on. Everything goes into one JSON file,
which is written after each section: a device that hangs or a run that is killed leaves the rest.
Exit status: 0 if every check holds, 1 if one fails or was not finished, 2 without the device.
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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.files import json_bytes, write_file
from bench.results.provenance import environment
from benchmarks.gpu_sections import SECTIONS, Run, Section, release
from engines.core.errors import UserError

FILE = "gpu-check.json"
TOTAL_S = 450.0  # all sections; below the eight minutes that are allowed, the start included


def run_section(section: Section, run: Run) -> dict[str, Any]:
    """Run one section; whatever goes wrong in it becomes its record."""
    import torch

    started, threads = time.monotonic(), torch.get_num_threads()
    if run.is_over or run.left_s < section.whole_s:
        return {"passed": False, "error": "not started: the time was used up", "seconds": 0.0}
    try:
        record = {"passed": True, **section.run(run.within(section.budget_s))}
    except Exception as error:  # a section must not keep the others from running
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

    found = environment(gpu=device == "cuda")
    found["torch"] = torch.__version__
    found["cuda"] = torch.version.cuda
    found["device"] = device_name(torch.device(device))
    if device == "cuda":
        query = ("nvidia-smi", "--query-gpu=driver_version,memory.total", "--format=csv,noheader")
        found["driver"] = _first_line(*query)
        found["nvcc"] = _first_line("sh", "-c", "nvcc --version | tail -1")
        found["capability"] = list(torch.cuda.get_device_capability())
    return found


def _first_line(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.splitlines()), None)


def check_device(device: str, *, quick: bool, only: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Run all sections (or those named); yields the record after each, whole after the last."""
    run = Run(device, quick, time.monotonic() + TOTAL_S)
    started = datetime.now(UTC)
    machine = describe_machine(device)  # now: a device that is lost answers nothing
    sections = [section for section in SECTIONS if not only or section.name in only]
    records = {}
    for section in sections:
        records[section.name] = record = run_section(section, run)
        state = "ok" if record["passed"] else f"FAILED {record.get('error', '')}"
        print(f"{section.name:15} {record['seconds']:6.1f} s  {state}", flush=True)
        complete = len(records) == len(sections)
        yield {
            "format": 1,
            "quick": quick,
            "passed": complete and all(each["passed"] for each in records.values()),
            "sections": records,
            "provenance": {
                **machine,
                "started": started.isoformat(timespec="seconds"),
                "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        }


def print_targets(record: dict[str, Any]) -> None:
    """Print what is held against a target, and the host's time in a decode step."""
    for section in record["sections"].values():
        for target in section.get("targets", ()):
            state = {None: "not measured", True: "met", False: "MISSED"}[target["met"]]
            value = "" if target["value"] is None else f"{target['value']:.3f}, "
            print(f"{target['name']}: {value}{target['limit']}: {state}")
    rows = record["sections"].get("decode-times", {}).get("rows", [])
    if rows:
        print(f"host time of a decode step: {statistics.median(r['host_us'] for r in rows):.0f} us")


def main(arguments: Sequence[str] | None = None) -> int:
    """Check from the command line."""
    names = [section.name for section in SECTIONS]
    parser = argparse.ArgumentParser(description="Check and time everything that needs a GPU.")
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--out", type=Path, default=Path("artifacts") / "gpu-check")
    parser.add_argument("--quick", action="store_true", help="little of everything, as a test")
    parser.add_argument("--only", action="append", default=[], choices=names, help="one section")
    options = parser.parse_args(arguments)
    try:
        import torch

        if options.device == "cuda" and not torch.cuda.is_available():
            raise UserError("no CUDA device here: run this on a machine with a GPU")
        content = b""
        for record in check_device(options.device, quick=options.quick, only=options.only):
            content = json_bytes(record)
            write_file(options.out / FILE, content)
    except ImportError as error:
        print(f"error: {error}: torch and numpy are needed", file=sys.stderr)
        return 2
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    record = json.loads(content)
    print_targets(record)
    print("next: make gpu-point (one point of Fig. 12, and the simulation's error there)")
    print(f"{'all checks hold' if record['passed'] else 'CHECKS FAILED'}: {options.out / FILE}")
    return 0 if record["passed"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
