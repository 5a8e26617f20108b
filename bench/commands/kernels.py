"""`bench kernels`: the microbenchmarks of Figures 18a and 19a on the present device."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.commands.options import quiet_option
from bench.commands.tables import print_table
from bench.devices.device import DEFAULT_MODEL, DEVICES, settle_device, settle_dtype
from bench.progress import choose
from engines.core.config import MODELS, find_model
from engines.core.errors import UserError

if TYPE_CHECKING:
    from bench.devices.kernels import Setup, Shapes

_COUNT = click.IntRange(min=1)


def _numbers(text: str, *, largest: int) -> tuple[int, ...]:
    """Read positive integers separated by commas; raises UserError."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and 1 <= int(part) <= largest for part in parts):
        raise UserError(f"'{text}' must be integers from 1 to {largest}, separated by commas")
    return tuple(int(part) for part in parts)


@click.command("kernels")
@click.option(
    "--device", default="auto", show_default=True, metavar="|".join(DEVICES), help="Where to run."
)
@click.option(
    "--only",
    type=click.Choice(["attention", "recovery"]),
    help="Only attention (Figure 18a) or only swapping and recomputing (19a).  [default: both]",
)
@click.option(
    "--model",
    metavar="NAME",
    help=f"Whose heads and layers: {', '.join(MODELS)}.  [default: opt-13b on cuda, opt-125m on "
    "cpu]",
)
@click.option("--dtype", metavar="TYPE", help="[default: float16 on cuda, float32 on cpu]")
@click.option("--batches", default="8,32", show_default=True, help="Batch sizes of attention.")
@click.option(
    "--contexts", default="64,128,256", show_default=True, help="Context lengths of attention."
)
@click.option(
    "--block-size", type=click.IntRange(1, 256), default=16, show_default=True,
    help="Block size of paged attention.",
)  # fmt: skip
@click.option(
    "--block-sizes", default="1,2,4,8,16,32,64,128,256", show_default=True,
    help="Block sizes of swapping.",
)  # fmt: skip
@click.option(
    "--tokens", type=_COUNT, default=256, show_default=True, help="Length of the swapped sequence."
)
@click.option("--samples", type=_COUNT, default=7, show_default=True, help="Samples in a round.")
@click.option("--rounds", type=_COUNT, default=3, show_default=True, help="Rounds over all shapes.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
    help="Keep the results and their provenance in DIR/kernels.json.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@quiet_option
def command(
    *, device: str, only: str | None, out: Path | None, as_json: bool, quiet: bool, **options: Any
) -> None:
    """Time paged against contiguous attention, and swapping against recomputing.

    Caches are cold: before each sample more than the last-level cache is written. Shares are of the
    device's own copy bandwidth, measured first. On a CPU the heads and layers are OPT-125M's in
    float32, a fortieth of OPT-13B's cache, so that all of it takes about a minute on two cores.
    """
    from bench.devices.kernels import Setup
    from bench.files import check_writable, json_bytes
    from bench.results.measurements import write_measurement

    shapes = _shapes(only, options)
    if out is not None:
        check_writable(out)
    found_device = settle_device(device)
    setup = Setup(
        spec=find_model(options["model"] or DEFAULT_MODEL[found_device]),
        device=found_device,
        dtype=settle_dtype(options["dtype"], found_device),
        block_size=options["block_size"],
        samples=options["samples"],
        rounds=options["rounds"],
    )
    found = measure_shown(setup, shapes, quiet=quiet)
    if out is not None:
        click.echo(f"written: {write_measurement(out, found)}", err=True)
    if as_json:
        click.echo(json.dumps(json.loads(json_bytes(found))))
    else:
        _print(found)


@dataclass(frozen=True)
class Timings:
    """What the progress shows."""

    slug: str


def measure_shown(setup: Setup, shapes: Shapes, *, quiet: bool) -> dict[str, Any]:
    """Measure and show the progress on standard error; raises UserError."""
    from bench.devices.kernels import measure

    with choose(quiet=quiet).single(Timings(f"kernels on {setup.device}")) as advance:
        return measure(setup, shapes, tell=advance)


def _shapes(only: str | None, options: Mapping[str, Any]) -> Shapes:
    """Read all lists, so that a faulty one fails before anything runs; then drop the unwanted."""
    from bench.devices.kernels import Shapes

    batches = _numbers(options["batches"], largest=4096)
    contexts = _numbers(options["contexts"], largest=1 << 20)
    block_sizes = _numbers(options["block_sizes"], largest=256)
    return Shapes(
        batches=() if only == "recovery" else batches,
        contexts=() if only == "recovery" else contexts,
        block_sizes=() if only == "attention" else block_sizes,
        num_tokens=options["tokens"],
    )


def _print(found: Mapping[str, Any]) -> None:
    setup = found["setup"]
    click.echo(
        f"{found['device']}: {setup['spec']['name']} in {setup['dtype']}, copy bandwidth "
        f"{found['copy_bandwidth'] / 1e9:.1f} GB/s"
    )
    if found["attention"]:
        print_table(
            ("kind", "batch", "context", "us", "quartiles", "MiB", "share of copy"),
            [_attention_cells(row) for row in found["attention"]],
            title="Decode attention (Fig. 18a)",
        )
        print_table(
            ("batch", "context", "paged / contiguous, quickest", "by rounds' medians"),
            [_ratio_cells(row) for row in found["ratios"]],
        )
    if found["recovery"]:
        print_table(
            ("block size", "gathered", "swap out ms", "swap in ms", "recompute ms",
             "spread ms", "MiB one way", "share of copy"),
            [_recovery_cells(row) for row in found["recovery"]],
            title=f"Bringing back a sequence of {found['num_tokens']} tokens (Fig. 19a)",
        )  # fmt: skip


def _attention_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        row["kind"],
        str(row["batch_size"]),
        str(row["context_len"]),
        f"{1e6 * row['latency_s']:.1f}",
        f"{1e6 * row['p25_s']:.1f}-{1e6 * row['p75_s']:.1f}",
        f"{row['bytes_moved'] / 2**20:.1f}",
        f"{row['share_of_copy']:.0%}",
    )


def _ratio_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        str(row["batch_size"]),
        str(row["context_len"]),
        f"{row['paged_over_contiguous']:.3f}",
        f"{row['least']:.3f}-{row['largest']:.3f}",
    )


def _recovery_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        str(row["block_size"]),
        "yes" if row["staged"] else "no",
        f"{1e3 * row['swap_out_s']:.3f}",
        f"{1e3 * row['swap_in_s']:.3f}",
        f"{1e3 * row['recompute_s']:.3f}",
        f"{1e3 * row['spread_s']:.3f}",
        f"{row['swapped_bytes'] / 2**20:.1f}",
        f"{row['share_of_copy']:.0%}",
    )
