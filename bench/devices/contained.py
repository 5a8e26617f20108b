"""What is measured on the device beside points, in a container of Astra's image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.docker.gpus import find_gpus
from bench.docker.images import Recipe
from bench.docker.launch import launch_json

if TYPE_CHECKING:
    from bench.devices.device import Shapes

_SYSTEM = "astra"  # whose image: the paged kernels are its own


@dataclass(frozen=True)
class InContainer:
    """Measures in a container each time, confined like a point's; see `Measurer`."""

    root: Path
    note: Callable[[str], None]
    build_args: Mapping[str, str] = field(default_factory=dict)

    def settle_device(self, name: str) -> str:
        """See `Measurer.settle_device`; PyTorch need not be installed here."""
        return ("cuda" if find_gpus() else "cpu") if name == "auto" else name

    def kernels(self, shapes: Shapes, device: str, *, quiet: bool) -> dict[str, Any]:
        """See `Measurer.kernels`; quiet, since the output is kept for messages of failure."""
        del quiet
        words = ["bench", "kernels", "--json", "--quiet", "--device", device, *_options(shapes)]
        found: dict[str, Any] = launch_json(self._recipe(device), words, self.root, self.note)
        return found

    def speed(self) -> float:
        """See `Measurer.speed`."""
        words = ["python3", "-m", "bench.experiments.miniature"]
        return float(launch_json(self._recipe("cpu"), words, self.root, self.note)["speed"])

    def _recipe(self, device: str) -> Recipe:
        return Recipe(_SYSTEM, device, self.build_args)


def _options(shapes: Shapes) -> list[str]:
    """Options of `bench kernels` for these shapes."""

    def joined(numbers: Sequence[int]) -> str:
        return ",".join(map(str, numbers))

    if shapes.block_sizes:
        sizes, tokens = joined(shapes.block_sizes), str(shapes.num_tokens)
        return ["--only", "recovery", "--block-sizes", sizes, "--tokens", tokens]
    batches, contexts = joined(shapes.batches), joined(shapes.contexts)
    return ["--only", "attention", "--batches", batches, "--contexts", contexts]
