"""`bench run`: one point, here and now."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from bench.commands import options
from bench.commands.backend import check_profile, resolve_backend, tell_backend
from bench.commands.output import note, print_table
from bench.commands.point_options import is_given, point_options
from bench.files import check_writable, plain
from bench.point.serve import Outcome, run_point
from bench.point.spec import PointSpec
from bench.progress import choose
from bench.results.provenance import environment, provenance_of
from bench.results.store import write_point
from bench.workloads.traces import read_trace

_ANY_LENGTH = 1 << 31  # lengths are held against the model's context when the point runs


@click.command("run")
@point_options()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write requests.parquet, metrics.json and point.json there.  [default: write nothing]",
)
@options.as_json(help="Print one JSON object instead of a table.")
@options.ray_ranks
@options.quiet
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    out: Path | None,
    as_json: bool,
    quiet: bool,
    ray: str,
    **settings: Any,
) -> None:
    """Run one point: a system serving a workload at one request rate.

    Metrics go to standard output, everything else to standard error.
    """
    asked = settings.pop("backend")
    spec = PointSpec(**settings, backend=resolve_backend(asked))
    check_profile(spec)
    if spec.trace is not None:
        given = {name: settings[name] for name in ("rate", "duration") if is_given(ctx, name)}
        spec = replace(spec, **{**_rate_and_duration(Path(spec.trace)), **given})
    outcome = serve(spec, out=out, quiet=quiet, ray=ray)
    if asked != spec.backend:
        tell_backend(asked, spec.backend)
    if as_json:
        click.echo(json.dumps(plain(outcome.metrics), allow_nan=False))
    else:
        print_table(("metric", "value"), _rows(outcome.metrics))


def _rate_and_duration(trace: Path) -> dict[str, float]:
    arrivals = read_trace(trace, max_model_len=_ANY_LENGTH).arrival_s
    duration = float(arrivals[-1]) or 1.0  # all at once: a rate per second says most
    return {"rate": len(arrivals) / duration, "duration": duration}


def serve(spec: PointSpec, *, out: Path | None, quiet: bool, ray: str) -> Outcome:
    """Run the point in this process and, with `out`, write it there; raises UserError."""
    if out is not None:
        check_writable(out)
    started = datetime.now(UTC)
    with choose(quiet=quiet).single(spec.slug) as advance:
        outcome = run_point(spec, on_progress=advance, ray=ray)
    for line in outcome.inputs.get("model", {}).get("notes", []):
        note(f"{spec.model}: {line}")
    if out is not None:
        shared, ended = environment(gpu=spec.backend == "cuda"), datetime.now(UTC)
        provenance = provenance_of(
            spec, shared=shared, inputs=outcome.inputs, started=started, ended=ended
        )
        write_point(out, spec, outcome, provenance=provenance)
    return outcome


def _rows(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from ((f"{name} {part}", _tell(number)) for part, number in value.items())
        else:
            yield name, _tell(value)


def _tell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"  # there was nothing to average
    return f"{value:,.6g}" if isinstance(value, float) else str(value)
