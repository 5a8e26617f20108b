"""`bench validate`: the simulation held against this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from bench.commands import options
from bench.commands.output import note, print_json, print_table, say
from bench.commands.types import INPUT, Decimal
from bench.devices.device import DEFAULT_MODEL
from bench.files import check_writable, write_file
from bench.point.spec import Backend
from bench.progress import choose

MINUTES, SHORT_MINUTES = 20.0, 3.0


@click.command("validate")
@options.artifacts
@options.subject
@click.option(
    "--device-profile",
    type=INPUT,
    metavar="FILE.toml",
    help="A profile of this device with steps of the model.  [default: measured first]",
)
@click.option(
    "--budget",
    type=Decimal(min=0, min_open=True),
    metavar="MINUTES",
    help=f"Time for serving; it sets how long each trace is.  [default: {MINUTES:g}, short: "
    f"{SHORT_MINUTES:g}]",
)
@options.flag("--short", help="Two systems at two loads, and a coarser profile.")
@click.option("--gpu-memory", metavar="SIZE", help="Memory to size the KV cache for (cuda).")
@options.as_json(help="Print validation.json instead of tables.")
@options.quiet
def command(
    *,
    artifacts: Path,
    device_profile: str | None,
    budget: float | None,
    short: bool,
    gpu_memory: str | None,
    as_json: bool,
    quiet: bool,
    **subject: Any,
) -> None:
    """Serve traces for real, simulate them, and show how far apart the two are.

    Measures a profile of this device, then serves at 30, 60, 90 and 115 % of the rate that the
    simulation says is sustained. Results, profile and figure go to validation/ below the artifacts;
    the same command again goes on where it was stopped.
    """
    found = options.read_subject(**subject)

    from bench.devices.cases import Subject
    from bench.devices.profile import validation_effort
    from bench.validation.cases import Target
    from bench.validation.record import FILE
    from bench.validation.run import Validation, require_steps
    from plot.validation import draw_validation

    minutes = budget or (SHORT_MINUTES if short else MINUTES)
    target = Target(
        model=subject["model"] or DEFAULT_MODEL[found["device"]],
        backend=Backend(found["device"]),
        dtype=found["dtype"],
        budget_s=60 * minutes,
        short=short,
        gpu_memory=gpu_memory,
    )
    target.cases()  # before anything is measured
    name = Path(target.model).name
    root = artifacts / "validation" / f"{found['device']}-{name}-{found['dtype']}"
    check_writable(root)
    validation = Validation(target, root, note, choose(quiet=quiet).single)
    if device_profile is not None:
        require_steps(Path(device_profile))
        write_file(validation.profile, Path(device_profile).read_bytes())
    validation.measure(Subject(**found), validation_effort(found["device"], short=short))
    result = validation.run()
    draw_validation(root)
    if as_json:
        print_json(result)
        return
    tell_result(result)
    say(str(root / FILE))


def tell_result(result: Mapping[str, Any]) -> None:
    """Print the errors of every point, of the kinds of steps, and the aims."""
    from bench.validation.cases import HEAVY
    from bench.validation.compare import TITLES

    shown = ("step_median", "step_p95", "mean_ttft_s", "mean_tpot_s", "mean_normalized_latency_s",
             "throughput_tok_s", "mean_running_requests")  # fmt: skip
    heads = ("step, median", "step, p95", "TTFT", "TPOT", "latency", "throughput", "running")
    rows = [
        (
            f"{p['system']}, {p['case']}", f"{p['load']:.0%}", f"{p['rate']:g}",
            _percent(p["slowness"] - 1), *(_percent(p["errors"].get(name)) for name in shown),
            f"{p['predicted']['preemptions']} / {p['measured']['preemptions']}",
        )
        for p in result["points"]
    ]  # fmt: skip
    noise = [_percent(result["noise"].get(name)) for name in shown]
    rows.append(("this machine itself", "", "", "", *noise, ""))
    print_table(
        ("point", "load", "req/s", "machine", *heads, "preempted"),
        rows,
        title="Predicted over measured, with the machine as slow as its pulse was",
    )
    aims = [
        (
            TITLES[aim["metric"]], "above" if aim["above"] else f"to {HEAVY:.0%}",
            f"{aim['within']} of {aim['points']} within {aim['limit']:.0%}",
            *(_percent(aim[name]) for name in ("median", "worst", "steady", "noise")),
        )
        for aim in result["aims"]
    ]  # fmt: skip
    print_table(
        ("error", "load", "aim", "median", "worst", "median, one speed", "machine itself"),
        aims,
        title="Aims",
    )
    rows = [
        (
            f"{p['system']}, {p['case']}, {p['load']:.0%}", kind, str(each["steps"]),
            *(_percent(each[name]) for name in ("median", "p95", "sum")),
        )
        for p in result["points"] for kind, each in p["steps"].items()
    ]  # fmt: skip
    print_table(("point", "kind of step", "steps", "median", "p95", "sum"), rows, title="Steps")
    for row in result["sustained"]:
        signs = row["bounds"]
        real, own = f"{signs[0]}{row['measured']:.3g}", f"{signs[1]}{row['predicted']:.3g}"
        say(f"{row['system']} sustains {real} req/s, predicted {own} ({_percent(row['error'])})")
    wrong = result["wrong_orders"]
    say(f"order of the systems: {'wrong: ' + ', '.join(wrong) if wrong else 'right'}")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:+.1f} %"
