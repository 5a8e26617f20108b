"""`bench run`: one point, here and now."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.commands.backend import check_profile, resolve_backend, tell_backend
from bench.commands.options import quiet_option, ray_ranks_option
from bench.commands.point_options import point_options
from bench.commands.tables import print_table
from bench.point.spec import PointSpec

if TYPE_CHECKING:
    from bench.point.serve import Outcome


_ANY_LENGTH = 1 << 31  # lengths are held against the model's context when the point runs


@click.command("run")
@point_options
@click.option(
    "--out",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Write requests.parquet, metrics.json and point.json there.  [default: write nothing]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@ray_ranks_option
@quiet_option
@click.pass_context
def command(
    ctx: click.Context, /, *, out: str | None, as_json: bool, quiet: bool, **settings: Any
) -> None:
    """Run one point: a system serving a workload at one request rate.

    Metrics go to standard output, everything else to standard error.
    """
    asked, ray = settings.pop("backend"), settings.pop("ray")
    spec = PointSpec(**settings, backend=resolve_backend(asked))
    check_profile(spec)
    if spec.trace is not None:
        spec = _take_from_trace(ctx, spec)
    outcome = serve(spec, out=None if out is None else Path(out), quiet=quiet, ray=ray)
    if asked != spec.backend:
        tell_backend(asked, spec.backend)
    if as_json:
        from bench.files import plain

        click.echo(json.dumps(plain(outcome.metrics), allow_nan=False))
    else:
        print_table(("metric", "value"), _rows(outcome.metrics))


def _take_from_trace(ctx: click.Context, spec: PointSpec) -> PointSpec:
    """Rate and duration are the trace's unless they were given."""
    from bench.workloads.traces import read_trace

    assert spec.trace is not None, "only called with a trace"
    arrivals = read_trace(Path(spec.trace), max_model_len=_ANY_LENGTH).arrival_s
    duration = float(arrivals[-1]) or 1.0  # all at once: a rate per second says most
    default = click.core.ParameterSource.DEFAULT
    if ctx.get_parameter_source("duration") is default:
        spec = replace(spec, duration=duration)
    if ctx.get_parameter_source("rate") is default:
        spec = replace(spec, rate=len(arrivals) / duration)
    return spec


def serve(
    spec: PointSpec, *, out: Path | None = None, quiet: bool = False, ray: str = "local"
) -> Outcome:
    """Run the point in this process and, with `out`, write it there; raises UserError."""
    from bench.files import check_writable
    from bench.point.serve import run_point
    from bench.progress import choose

    if out is not None:
        check_writable(out)
    started = datetime.now(UTC)
    with choose(quiet=quiet).single(spec.slug) as advance:
        outcome = run_point(spec, on_progress=advance, ray=ray)
    if out is not None:
        _write(out, spec, outcome, started=started)
    return outcome


def _write(out: Path, spec: PointSpec, outcome: Outcome, *, started: datetime) -> None:
    from bench.results.provenance import environment, provenance_of
    from bench.results.store import write_point

    shared = environment(gpu=spec.backend == "cuda")
    ended = datetime.now(UTC)
    provenance = provenance_of(
        spec, shared=shared, inputs=outcome.inputs, started=started, ended=ended
    )
    write_point(out, spec, outcome, provenance=provenance)


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
