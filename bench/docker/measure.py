"""What is measured beside points, in a container: the kernels of a figure, a CPU's speed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.docker.command import ask_command
from bench.docker.container import WORK, Confinement
from bench.docker.daemon import connect
from bench.docker.gpus import Gpu, GpuLedger, find_gpus
from bench.docker.images import Images
from bench.docker.owner import sweep
from bench.results.provenance import git_state
from engines.core.errors import UserError

if TYPE_CHECKING:
    from docker import DockerClient

    from bench.devices.kernels import Shapes

_SYSTEM = "astra"  # whose image: the paged kernels are its own


@dataclass(frozen=True)
class ContainedMeasurer:
    """Measures in a container of its own each time, confined like a point's.

    On GPUs it gets one that nobody else uses.
    """

    root: Path
    note: Callable[[str], None]
    build_args: Mapping[str, str] = field(default_factory=dict)
    connect: Callable[[], DockerClient] = connect
    find_gpus: Callable[[], list[Gpu]] = find_gpus

    def settle_device(self, name: str) -> str:
        """See `Measurer.settle_device`; PyTorch need not be installed here."""
        return ("cuda" if self.find_gpus() else "cpu") if name == "auto" else name

    def kernels(self, shapes: Shapes, device: str, *, quiet: bool) -> dict[str, Any]:
        """See `Measurer.kernels`; the provenance names the container too."""
        words = ["bench", "kernels", "--json", "--device", device, *_options(shapes)]
        return self._ask([*words, "--quiet"] if quiet else words, device)

    def speed(self) -> float:
        """See `Measurer.speed`."""
        found = self._ask(("python3", "-m", "bench.experiments.miniature"), "cpu")
        return float(found["speed"])

    def _ask(self, words: Sequence[str], device: str) -> dict[str, Any]:
        """Run a command that prints one JSON object with its provenance, and complete that."""
        client = self.connect()
        sweep(client, self.note)
        gpus = self._take_gpus(device)
        images = Images(client, build_args=self.build_args)
        image = images.ensure(images.recipe(_SYSTEM, device), self.note)
        self.note(f"measuring in a container of {image.name}")
        self.root.mkdir(parents=True, exist_ok=True)  # as us, not as the daemon
        confinement = Confinement(self.root.absolute(), results_at=f"{WORK}/artifacts", gpus=gpus)
        found = json.loads(ask_command(client, image, words, confinement, show=True))
        container = confinement.record(image, client.version().get("Version"))
        found["provenance"] = {
            **found.get("provenance", {}), **git_state(), "container": container
        }  # fmt: skip
        return dict(found)

    def _take_gpus(self, device: str) -> tuple[Gpu, ...]:
        if device != "cuda":
            return ()
        ledger = GpuLedger(self.find_gpus())
        if not ledger.has(1):
            raise UserError(
                f"measuring kernels needs a GPU, and none is free ({ledger.busy_elsewhere} in use "
                "by others): free one, or use --backend cpu"
            )
        return ledger.take(1)


def _options(shapes: Shapes) -> list[str]:
    """What `bench kernels` is told for these shapes, of one part of it."""
    if shapes.block_sizes:
        sizes, tokens = _joined(shapes.block_sizes), str(shapes.num_tokens)
        return ["--only", "recovery", "--block-sizes", sizes, "--tokens", tokens]
    batches, contexts = _joined(shapes.batches), _joined(shapes.contexts)
    return ["--only", "attention", "--batches", batches, "--contexts", contexts]


def _joined(numbers: Iterable[int]) -> str:
    return ",".join(map(str, numbers))
