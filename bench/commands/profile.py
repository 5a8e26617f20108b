"""`bench profile`: what the present device can do, for the simulation to take."""

from __future__ import annotations

from pathlib import Path

import click

from bench.devices.device import DEFAULT_MODEL, DEVICES, settle_device, settle_dtype
from engines.core.config import MODELS, find_model
from engines.core.errors import UserError


@click.command("profile")
@click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="|".join(DEVICES),
    help="What to measure.",
)
@click.option(
    "--model",
    metavar="NAME",
    help=f"Whose shapes: {', '.join(MODELS)}.  [default: opt-13b on cuda, opt-125m on cpu]",
)
@click.option("--dtype", metavar="TYPE", help="[default: float16 on cuda, float32 on cpu]")
@click.option("--name", help="Name in the profile.  [default: the file's]")
@click.option(
    "--quick", is_flag=True, help="Few samples: to try the command, not to use its result."
)
@click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.toml",
    help="The profile to write.",
)
def command(
    *, device: str, model: str | None, dtype: str | None, name: str | None, quick: bool, out: Path
) -> None:
    """Measure a device profile and write it to FILE.toml, in one or two minutes.

    `bench run --backend sim --device-profile FILE.toml` takes it.
    """
    from bench.devices.profile import measure_profile, profile_text, usual_effort
    from bench.files import check_writable, write_file

    if out.suffix != ".toml":
        raise UserError(f"the profile's file must end in .toml, got '{out}'")
    title = out.stem if name is None else name
    if not title.isprintable() or '"' in title or "\\" in title:
        raise UserError(f"a profile's name is plain text without quotes, got {title!r}")
    spec = None if model is None else find_model(model)
    check_writable(out.parent)
    found = settle_device(device)
    measured = measure_profile(
        title,
        spec=spec or find_model(DEFAULT_MODEL[found]),
        device=found,
        dtype=settle_dtype(dtype, found),
        effort=usual_effort(found, quick=quick),
        tell=lambda line: click.echo(line, err=True),
    )
    write_file(out, profile_text(measured).encode())
    click.echo(str(out))
