"""`bench generate`: given prompts through one of the systems, tokens or text out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from bench.commands import options
from bench.commands.backend import resolve_backend
from bench.commands.output import print_json, say
from bench.commands.point_options import OF_WORKLOADS, point_options
from bench.commands.types import COUNT, EXISTING_FILE
from bench.point.generate import generate, outputs_of, read_lines, read_prompts
from bench.point.spec import Backend, PointSpec
from bench.point.text import Tokenizer
from engines.core.errors import UserError


@click.command("generate")
@point_options(without=OF_WORKLOADS)
@click.option(
    "--input",
    "input_file",
    type=EXISTING_FILE,
    metavar="FILE.jsonl",
    help="One JSON object a line: prompt_token_ids or prompt (a text), max_tokens, and if need be "
    "sampling, temperature, top_p, ignore_eos.",
)
@click.option(
    "--prompt", "prompts", multiple=True, metavar="TEXT", help="A prompt; may be repeated."
)
@click.option(
    "--max-tokens", type=COUNT, default=64, help="The most tokens that continue a --prompt."
)
@options.ray_ranks
@options.as_json(help="Print JSON lines instead of texts or token ids.")
def command(
    *,
    input_file: Path | None,
    prompts: tuple[str, ...],
    max_tokens: int,
    as_json: bool,
    **settings: Any,
) -> None:
    """Run prompts through an engine and print what it generates.

    Outputs are in the order of the prompts; those of a beam search are sorted, the best first.
    Texts need a checkpoint with a tokenizer. They end where the model ends them, token ids at
    max_tokens, unless a line sets ignore_eos.
    """
    if (input_file is None) == (not prompts):
        raise UserError("give either --input FILE.jsonl or --prompt TEXT")
    ray, tokenizer = settings.pop("ray"), Tokenizer(settings["model"])
    lines = [
        (f"--prompt {i}", json.dumps({"prompt": prompt, "max_tokens": max_tokens}))
        for i, prompt in enumerate(prompts, 1)
    ]
    given = read_prompts(read_lines(input_file) if input_file else lines, tokenizer)
    spec = PointSpec(**{**settings, "backend": _resolve(settings["backend"])})
    groups = generate(spec, given, ray=ray)
    for index, outputs in enumerate(outputs_of(given, groups, tokenizer)):
        if as_json:
            print_json({"index": index, "outputs": outputs})
            continue
        for output in outputs:
            ids = " ".join(map(str, output["token_ids"]))
            say(f"{index}: {output.get('text', ids)}", keep="\n\t")


def _resolve(name: str) -> Backend:
    """A backend that has tokens; `auto` is the GPU where there is one, else the CPU."""
    if name == "sim":
        raise UserError("backend 'sim' has no tokens: use --backend cpu or cuda")
    found = resolve_backend(name)
    return resolve_backend("cpu") if found == "sim" else found
