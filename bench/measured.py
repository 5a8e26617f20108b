"""Figures that are measured on the present device by a microbenchmark, under any backend.

A kernel has no simulation. Such a figure is measured on the GPU where there is one, or on the CPU,
kept below the artifacts with its provenance, and never drawn together with simulated results.
"""

from __future__ import annotations

from pathlib import Path

import click

from bench.devices import DEFAULT_MODEL, settle_device, settle_dtype
from bench.experiments.model import Figure
from bench.kernel_results import find_measurement, measured_directory, write_measurement
from engines.core.config import find_model


def is_there(figure: Figure, root: Path, *, backend: str) -> bool:
    """Whether the figure was measured; raises UserError for a file that is none."""
    return find_measurement(root, figure.microbenchmark, backend=backend) is not None


def measure_figure(figure: Figure, root: Path, *, backend: str, quiet: bool) -> Path:
    """Measure a figure and keep it; returns the file. Raises UserError where that cannot be."""
    from bench.commands.kernels import measure_shown
    from bench.kernels import Setup, Shapes

    assert figure.microbenchmark, f"{figure.name} is not measured by a microbenchmark"
    device = settle_device("auto" if backend == "sim" else backend)
    sweep = figure.sweep
    if figure.microbenchmark == "attention":
        shapes = Shapes(batches=sweep["batch_size"], contexts=sweep["context_len"])
    else:
        shapes = Shapes(block_sizes=sweep["block_size"], num_tokens=sweep["context_len"][0])
    setup = Setup(
        spec=find_model(DEFAULT_MODEL[device]), device=device, dtype=settle_dtype(None, device)
    )
    where = {"cpu": "CPU", "cuda": "GPU"}[device]
    click.echo(f"{figure.name}: measured, not simulated: timing kernels on this {where}", err=True)
    found = measure_shown(setup, shapes, quiet=quiet)
    return write_measurement(measured_directory(root, figure.microbenchmark, device), found)
