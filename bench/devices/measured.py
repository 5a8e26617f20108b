"""Figures that are measured on the present device by a microbenchmark, under any backend.

A kernel has no simulation. Such a figure is measured on the GPU where there is one, or on the CPU,
kept below the artifacts with its provenance, and never drawn together with simulated results.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.devices.device import DEFAULT_MODEL, Shapes, settle_device, settle_dtype
from bench.experiments.model import Figure
from bench.progress import choose
from bench.results.measurements import measured_directory, write_measurement
from engines.core.models import find_model


@dataclass(frozen=True)
class Measurer:
    """Measures a device for the results in the artifacts directory `root`, in this process."""

    root: Path

    def settle_device(self, name: str) -> str:
        """Return "cpu" or "cuda"; `auto` is what is there. Raises UserError for what is not."""
        return settle_device(name)

    def kernels(self, shapes: Shapes, device: str, *, quiet: bool) -> dict[str, Any]:
        """Time kernels as `devices.kernels.measure` does, on a settled device."""
        from bench.devices.kernels import Setup, measure

        spec, dtype = find_model(DEFAULT_MODEL[device]), settle_dtype(None, device)
        setup = Setup(spec=spec, device=device, dtype=dtype)
        with choose(quiet=quiet).single(f"kernels on {device}") as tell:
            return measure(setup, shapes, tell=tell)

    def speed(self) -> float:
        """The CPU's speed (`bench.experiments.miniature.measure_speed`); raises UserError."""
        from bench.experiments.miniature import measure_speed

        return measure_speed()


def measure_figure(
    figure: Figure,
    measurer: Measurer,
    *,
    backend: str,
    quiet: bool,
    note: Callable[[str], None] = lambda _: None,
) -> Path:
    """Measure a figure and keep it; returns the file. Raises UserError where that cannot be."""
    assert figure.microbenchmark, f"{figure.name} is not measured by a microbenchmark"
    device = measurer.settle_device("auto" if backend == "sim" else backend)
    where = {"cpu": "CPU", "cuda": "GPU"}[device]
    note(f"{figure.name}: measured, not simulated: timing kernels on this {where}")
    found = measurer.kernels(_shapes(figure), device, quiet=quiet)
    directory = measured_directory(measurer.root, figure.microbenchmark, device)
    return write_measurement(directory, found)


def _shapes(figure: Figure) -> Shapes:
    sweep = figure.sweep
    if figure.microbenchmark == "attention":
        return Shapes(batches=sweep["batch_size"], contexts=sweep["context_len"])
    return Shapes(block_sizes=sweep["block_size"], num_tokens=sweep["context_len"][0])
