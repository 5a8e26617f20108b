"""`bench profile`: what the present device can do, for the simulation to take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bench.commands import options
from bench.commands.output import say
from bench.commands.types import NEW_FILE
from bench.files import check_writable, write_file
from bench.progress import choose
from engines.core.errors import UserError


@click.command("profile")
@options.subject
@click.option("--name", help="Name in the profile.  [default: the file's]")
@options.flag("--quick", help="Few samples: to try the command, not to use its result.")
@click.option(
    "--out", required=True, type=NEW_FILE, metavar="FILE.toml", help="The profile to write."
)
@options.quiet
def command(*, name: str | None, quick: bool, out: Path, quiet: bool, **subject: Any) -> None:
    """Measure a device profile and write it to FILE.toml, in about five minutes.

    It holds whole engine steps of the model, and rates for other models.
    `bench run --backend sim --device-profile FILE.toml` takes it.
    """
    if out.suffix != ".toml":
        raise UserError(f"the profile's file must end in .toml, got '{out}'")
    title = out.stem if name is None else name
    if not title.isprintable() or '"' in title or "\\" in title:
        raise UserError(f"a profile's name is plain text without quotes, got {title!r}")
    check_writable(out.parent)
    found = options.read_subject(**subject)

    from bench.devices.cases import Subject
    from bench.devices.profile import measure_profile, usual_effort

    effort = usual_effort(found["device"], quick=quick)
    with choose(quiet=quiet).single(f"profile of {found['device']}") as tell:
        text = measure_profile(title, Subject(**found), effort, tell=tell)
    write_file(out, text.encode())
    say(str(out))
