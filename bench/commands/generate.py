"""`bench generate`: given prompts through one of the systems, tokens out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bench.commands import options
from bench.commands.backend import resolve_backend
from bench.commands.point_options import OF_WORKLOADS, point_options
from bench.point.generate import generate, lines_of, read_job
from bench.point.spec import Backend, PointSpec
from engines.core.errors import UserError


@click.command("generate")
@point_options(without=OF_WORKLOADS)
@click.option(
    "--input",
    "input_file",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE.jsonl",
    help="One JSON object a line: prompt_token_ids, max_tokens, and if need be sampling, "
    "temperature, top_p, ignore_eos.",
)
@options.ray_ranks
@options.as_json(help="Print JSON lines instead of token ids.")
def command(*, input_file: Path, as_json: bool, **settings: Any) -> None:
    """Run the prompts of FILE through an engine and print what it generates.

    Outputs are in the order of the file; those of a beam search are sorted, the best first.
    """
    job, ray = read_job(input_file), settings.pop("ray")
    spec = PointSpec(**{**settings, "backend": _resolve(settings["backend"])})
    groups = generate(spec, job, ray=ray)
    if as_json:
        for line in lines_of(groups):
            click.echo(line)
        return
    for index, group in enumerate(groups):
        for sequence in group.sequences:
            click.echo(f"{index}: {' '.join(map(str, sequence.output_token_ids))}")


def _resolve(name: str) -> Backend:
    """A backend that has tokens; `auto` is the GPU where there is one, else the CPU."""
    if name == "sim":
        raise UserError("backend 'sim' has no tokens: use --backend cpu or cuda")
    found = resolve_backend(name)
    return resolve_backend("cpu") if found == "sim" else found
