"""`bench scaling`: the tables of docs/scaling.md."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.commands.options import artifacts_option, quiet_option
from bench.commands.places import choose_place, place_options
from engines.core.errors import UserError

if TYPE_CHECKING:
    from bench.point import PointSpec
    from bench.results import Store
    from bench.scale_out import Instance, Step


@click.command("scaling")
@click.option(
    "--seeds", type=click.IntRange(1, 64), default=3, show_default=True, help="Searches per rate."
)
@click.option(
    "--write",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="PAGE",
    help="Put the tables between the marks of a page instead of printing them.",
)
@place_options
@artifacts_option
@quiet_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    seeds: int,
    write: Path | None,
    artifacts: str,
    quiet: bool,
    **where: Any,
) -> None:
    """Predict OPT-66B and OPT-175B at tensor-parallel 1 to 8, and as replicas (Markdown).

    Simulated: KV slots, the rate that an instance sustains (as `bench capacity` finds it), where
    its time goes at that rate, and what a node of 8 devices sustains when it is filled with
    instances behind a router. Points are kept among the results.
    """
    from bench.commands.figure import tell
    from bench.progress import choose
    from bench.results import Store
    from bench.runner import run_points
    from bench.scale_out import crowd, fitting, loaded_specs, mean_step, search_rates

    page = None if write is None else write.read_text(encoding="utf-8")
    store, chosen = Store(artifacts), fitting()
    place, display = choose_place(where), choose(quiet=quiet)
    sought = search_rates(store, chosen, seeds=seeds, place=place, display=display)
    ended = sought.failed
    if ended is None:
        loaded = loaded_specs(chosen, sought)
        ended = run_points(store, [*loaded.values(), *crowd()], place=place, display=display)
    if ended.exit_status:
        tell(ended, store)
        ctx.exit(ended.exit_status)
    rates = {spec: found.mean.value for spec, found in sought.found.items()}
    latencies = {spec: latency_cells(store, point) for spec, point in loaded.items()}
    tables = {
        "memory": memory_table(),
        "steps": step_table({o: mean_step(store, o, sought.found[o.spec()]) for o in chosen}),
        "nodes": node_table(chosen, rates, latencies),
        "crowd": crowd_table(store, crowd()),
    }
    if write is None or page is None:
        click.echo("\n\n".join(tables.values()))
        return
    for name, table in tables.items():
        page = fill(page, name, table)
    write.write_text(page, encoding="utf-8")


def fill(page: str, name: str, table: str) -> str:
    """Put a table between its marks; raises UserError for a page without them."""
    marks = rf"(<!-- bench scaling: {name} -->\n).*?(<!-- end of {name} -->)"
    filled, count = re.subn(marks, lambda m: f"{m[1]}{table}\n{m[2]}", page, flags=re.S)
    if count != 1:
        raise UserError(f"the page has no place for the table '{name}': add its marks")
    return filled


def memory_table() -> str:
    """What fits: weights per device and KV slots, by model, device and degree."""
    from bench.scale_out import DEGREES, instances

    rows: dict[tuple[str, str], list[str]] = {}
    for one in instances():
        weights = f"{one.weights_gib:.0f} GiB"
        slots = f"{one.slots:,}" if one.slots is not None else "-"
        rows.setdefault((one.model.name, one.profile.name), []).append(f"{slots} ({weights})")
    degrees = [f"{degree} device{'s' if degree > 1 else ''}" for degree in DEGREES]
    return _markdown(("model", "device", *degrees), [(*key, *row) for key, row in rows.items()])


def step_table(steps: Mapping[Instance, Step]) -> str:
    """Where the mean step's time goes at the highest sustained rate."""
    from bench.scale_out import TERMS

    rows = []
    for one, step in steps.items():
        shares = {name: f"{100 * s / step.seconds:.0f} %" for name, s in step.terms.items()}
        shares["linear layers"] += " (arithmetic)" if step.compute_bound else " (weights)"
        state = (f"{step.running:.0f}", f"{step.kv_used_pct:.0f} %", f"{1e3 * step.seconds:.0f} ms")
        rows.append((*_names(one), *state, *shares.values(), step.longest))
    header = ("model", "devices", "running", "KV used", "step", *TERMS, "longest")
    return _markdown(header, rows)


def node_table(
    chosen: Sequence[Instance],
    rates: Mapping[PointSpec, float],
    latencies: Mapping[PointSpec, str],
) -> str:
    """Of 8 devices filled with instances, by router: sustained rates, and latencies below them."""
    from bench.point import ROUTERS

    rows = []
    for one in chosen:
        specs = list(one.fleets.values()) or [one.spec()] * len(ROUTERS)
        rows.append(
            (
                *_names(one),
                f"{rates[one.spec()]:.3g}",
                str(one.replicas),
                *(f"{rates[spec]:.3g}" for spec in specs),
                *(latencies[spec] for spec in specs),
            )
        )
    latency = [f"s/token, {router}" for router in ROUTERS]
    header = ("model", "devices", "one instance", "replicas on 8", *ROUTERS, *latency)
    return _markdown(header, rows)


def crowd_table(store: Store, points: Sequence[PointSpec]) -> str:
    """What users of many replicas wait for, by router."""
    rows = []
    for spec in points:
        metrics = store.load_record(spec)["metrics"]
        waited = (metrics["mean_ttft_s"], metrics["p50_normalized_latency_s"])
        cells = (latency_cells(store, spec), *(f"{value:.2g}" for value in waited))
        rows.append((str(spec.router), *cells, f"{metrics['preemptions']:,}"))
    header = ("router", "s/token", "to the first token (s)", "s/token, median", "preemptions")
    return _markdown(header, rows)


def latency_cells(store: Store, spec: PointSpec) -> str:
    """Mean and 99th percentile of a point's normalized latency."""
    metrics = store.load_record(spec)["metrics"]
    mean, worst = (metrics[f"{name}_normalized_latency_s"] for name in ("mean", "p99"))
    return f"{mean:.2g} ({worst:.2g})"


def _names(one: Instance) -> tuple[str, str]:
    return one.model.name, f"{one.degree} x {one.profile.name}"


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
