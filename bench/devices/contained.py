"""What is measured on the device beside points, in a container of Astra's image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.devices.device import Shapes
from bench.devices.measured import Measurer
from bench.docker.gpus import settle_device
from bench.docker.images import Recipe
from bench.docker.launch import prepared, run_json


@dataclass(frozen=True)
class InContainer(Measurer):
    """Measures in a container each time, confined like a point's."""

    note: Callable[[str], None]
    build_args: Mapping[str, str] = field(default_factory=dict)

    def settle_device(self, name: str) -> str:
        """See `Measurer`; PyTorch need not be installed here."""
        return settle_device(name)

    def kernels(self, shapes: Shapes, device: str, *, quiet: bool) -> dict[str, Any]:
        """See `Measurer`; always quiet, since the output is kept for messages of failure."""
        found: dict[str, Any] = self._run(
            device, "bench", "kernels", "--json", "--quiet", "--device", device, *_options(shapes)
        )
        return found

    def speed(self) -> float:
        """See `Measurer`."""
        return float(self._run("cpu", "python3", "-m", "bench.experiments.miniature")["speed"])

    def _run(self, device: str, *words: str) -> Any:
        recipe = Recipe("astra", device, self.build_args)  # the paged kernels are its own
        with prepared(recipe, self.root, self.note) as container:
            return run_json(*container, words)


def _options(shapes: Shapes) -> list[str]:
    """Options of `bench kernels` for these shapes."""

    def joined(numbers: Sequence[int]) -> str:
        return ",".join(map(str, numbers))

    if shapes.block_sizes:
        sizes, tokens = joined(shapes.block_sizes), str(shapes.num_tokens)
        return ["--only", "recovery", "--block-sizes", sizes, "--tokens", tokens]
    batches, contexts = joined(shapes.batches), joined(shapes.contexts)
    return ["--only", "attention", "--batches", batches, "--contexts", contexts]
