"""`bench run`: one point, here and now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from bench.commands import options
from bench.commands.backend import check_profile, resolve_backend, tell_backend
from bench.commands.output import note, print_json, print_table, rows_of, show_reading
from bench.commands.point_options import point_options
from bench.files import check_writable
from bench.point.serve import Outcome, load_trace, run_point
from bench.point.spec import PointSpec
from bench.progress import choose
from bench.results.point_files import write_point
from bench.results.provenance import environment, provenance_of

_LEFT_OUT = {
    "outside": "arrive outside --start and --end",
    "zero_output": "have no tokens and are left out",
    "too_long": "are longer than the model's context and are left out",
    "beyond_limit": "are beyond --limit",
    "truncated": "are cut to the model's context",
}


@click.command("run")
@point_options()
@options.out_folder(
    help="Write requests.parquet, metrics.json and point.json there.  [default: write nothing]"
)
@options.as_json(help="Print one JSON object instead of a table.")
@options.ray_ranks
@options.quiet
def command(*, out: Path | None, as_json: bool, quiet: bool, ray: str, **settings: Any) -> None:
    """Run one point: a system serving a workload at one request rate.

    Metrics go to standard output, everything else to standard error.
    """
    asked = settings.pop("backend")
    spec = PointSpec(**settings, backend=resolve_backend(asked))
    check_profile(spec)
    outcome = serve(spec, out=out, quiet=quiet, ray=ray)
    for line in (*_told_of_trace(outcome), *_told_of_inputs(outcome.inputs)):
        note(line)
    if asked != spec.backend:
        tell_backend(asked, spec.backend)
    if as_json:
        print_json(outcome.metrics)
    else:
        print_table(("metric", "value"), rows_of(outcome.metrics))


def _told_of_trace(outcome: Outcome) -> Iterator[str]:
    """What was done to the trace, if one was served: a line each."""
    trace = outcome.inputs["workload"].get("trace")
    if trace is not None:
        yield from (f"trace: {line}" for line in trace["notes"])
        counts = {name: count for name, count in trace["dropped"].items() if count}
        for name, count in counts.items():
            yield f"trace: {count:,} of {trace['rows']:,} requests {_LEFT_OUT[name]}"


def _told_of_inputs(inputs: Mapping[str, Any]) -> Iterator[str]:
    """What is left out of a simulated model and assumed of its device: a line each."""
    model, device = inputs.get("model", {}), inputs.get("device_profile", {})
    yield from (f"{model['name']}: {line}" for line in model.get("notes", []))
    if device.get("assumed"):
        yield f"{device['name']}: its rates are assumed from its data sheet (docs/extending.md)"


def serve(spec: PointSpec, *, out: Path | None, quiet: bool, ray: str) -> Outcome:
    """Run the point in this process and, with `out`, write it there; raises UserError."""
    if out is not None:
        check_writable(out)
    started = datetime.now(UTC)
    trace = None
    if spec.trace is not None:
        with show_reading(Path(spec.trace), quiet=quiet) as advance:
            trace = load_trace(spec, on_progress=advance)
    display = choose(quiet=quiet)
    with display.single(spec.slug) as advance:
        outcome = run_point(spec, trace=trace, on_progress=advance, on_notice=display.note, ray=ray)
    if out is not None:
        shared, ended = environment(gpu=spec.backend == "cuda"), datetime.now(UTC)
        provenance = provenance_of(
            spec, shared=shared, inputs=outcome.inputs, started=started, ended=ended
        )
        write_point(out, spec, outcome, provenance=provenance)
    return outcome
