"""`bench kernels`: the microbenchmarks of Figures 18a and 19a on the present device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from bench.commands import options
from bench.commands.output import note, print_json, print_table, say
from bench.commands.types import COUNT, Numbers, Whole
from bench.devices.device import Shapes
from bench.files import check_writable
from bench.progress import choose
from bench.results.measurements import write_measurement

_SHAPES = (
    ("--batches", Numbers(1, 4096), "8,32", "Batch sizes of attention."),
    ("--contexts", Numbers(1, 1 << 20), "64,128,256", "Context lengths of attention."),
    ("--block-size", Whole(1, 256), 16, "Block size of paged attention."),
    ("--block-sizes", Numbers(1, 256), "1,2,4,8,16,32,64,128,256", "Block sizes of swapping."),
    ("--tokens", COUNT, 256, "Length of the swapped sequence."),
    ("--samples", COUNT, 7, "Samples in a round."),
    ("--rounds", COUNT, 3, "Rounds over all shapes."),
)


@click.command("kernels")
@options.subject
@click.option(
    "--only",
    type=click.Choice(["attention", "recovery"]),
    help="Only attention (Figure 18a) or only swapping and recomputing (19a).  [default: both]",
)
@options.stack(
    *(
        click.option(name, type=kind, default=default, help=text)
        for name, kind, default, text in _SHAPES
    )
)
@options.out_folder(help="Keep the results and their provenance in DIR/kernels.json.")
@options.as_json(help="Print JSON instead of tables.")
@options.quiet
def command(*, out: Path | None, as_json: bool, **given: Any) -> None:
    """Time paged against contiguous attention, and swapping against recomputing.

    Caches are cold: before each sample more than the last-level cache is written. Shares are of the
    device's own copy bandwidth, measured first. On a CPU the heads and layers are OPT-125M's in
    float32, a fortieth of OPT-13B's cache, so that all of it takes about a minute on two cores.
    """
    if out is not None:
        check_writable(out)
    found = _measure(**given)
    if out is not None:
        note(f"written: {write_measurement(out, found)}")
    if as_json:
        print_json(found)
    else:
        _print(found)


def _measure(
    *,
    device: str,
    model: str | None,
    dtype: str | None,
    only: str | None,
    quiet: bool,
    **given: Any,
) -> dict[str, Any]:
    subject = options.read_subject(device, model, dtype)  # refuses where PyTorch is missing
    from bench.devices.kernels import Setup, measure

    effort = {name: given[name] for name in ("block_size", "samples", "rounds")}
    setup = Setup(**subject, **effort)
    shapes = Shapes(
        batches=() if only == "recovery" else given["batches"],
        contexts=() if only == "recovery" else given["contexts"],
        block_sizes=() if only == "attention" else given["block_sizes"],
        num_tokens=given["tokens"],
    )
    with choose(quiet=quiet).single(f"kernels on {setup.device}") as tell:
        return measure(setup, shapes, tell=tell)


def _print(found: Mapping[str, Any]) -> None:
    setup = found["setup"]
    say(
        f"{found['device']}: {setup['spec']['name']} in {setup['dtype']}, copy bandwidth "
        f"{found['copy_bandwidth'] / 1e9:.1f} GB/s"
    )
    recovery = f"Bringing back a sequence of {found['num_tokens']} tokens (Fig. 19a)"
    _print_rows(found["attention"], "Decode attention (Fig. 18a)")
    _print_rows(found["ratios"], "Paged over contiguous: of the quickest samples, and by rounds")
    _print_rows(found["recovery"], recovery)


def _print_rows(rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Print the fields of the record as they are named there, times in microseconds."""
    if rows:
        header = [f"{name[:-1]}us" if name.endswith("_s") else name for name in rows[0]]
        print_table(header, [[_cell(*field) for field in row.items()] for row in rows], title=title)


def _cell(name: str, value: Any) -> str:
    if name.endswith("_s"):
        return f"{1e6 * value:.1f}"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
