"""`bench kernels`: the microbenchmarks of Figures 18a and 19a on the present device."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from bench.commands import options
from bench.commands.output import note, print_table
from bench.devices.device import Shapes
from bench.files import check_writable, json_bytes
from bench.progress import choose
from bench.results.measurements import write_measurement
from engines.core.errors import UserError


def _numbers(largest: int) -> Callable[[click.Context, click.Parameter, str], tuple[int, ...]]:
    """Return a callback that reads positive integers separated by commas; raises UserError."""

    def read(_ctx: click.Context, _option: click.Parameter, text: str) -> tuple[int, ...]:
        parts = text.split(",")
        if not all(part.strip().isdecimal() and 1 <= int(part) <= largest for part in parts):
            raise UserError(f"'{text}' must be integers from 1 to {largest}, separated by commas")
        return tuple(map(int, parts))

    return read


_SHAPES = (
    ("--batches", {"callback": _numbers(4096)}, "8,32", "Batch sizes of attention."),
    ("--contexts", {"callback": _numbers(1 << 20)}, "64,128,256", "Context lengths of attention."),
    ("--block-size", {"type": click.IntRange(1, 256)}, 16, "Block size of paged attention."),
    ("--block-sizes", {"callback": _numbers(256)}, "1,2,4,8,16,32,64,128,256",
     "Block sizes of swapping."),
    ("--tokens", {"type": options.COUNT}, 256, "Length of the swapped sequence."),
    ("--samples", {"type": options.COUNT}, 7, "Samples in a round."),
    ("--rounds", {"type": options.COUNT}, 3, "Rounds over all shapes."),
)  # fmt: skip


@click.command("kernels")
@options.subject
@click.option(
    "--only",
    type=click.Choice(["attention", "recovery"]),
    help="Only attention (Figure 18a) or only swapping and recomputing (19a).  [default: both]",
)
@options.stack(
    *(
        click.option(name, default=default, help=text, **read)
        for name, read, default, text in _SHAPES
    )
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Keep the results and their provenance in DIR/kernels.json.",
)
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
        click.echo(json.dumps(json.loads(json_bytes(found))))
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
    from bench.devices.kernels import Setup, measure

    effort = {name: given[name] for name in ("block_size", "samples", "rounds")}
    setup = Setup(**options.read_subject(device, model, dtype), **effort)
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
    click.echo(
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
