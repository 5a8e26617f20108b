"""The platform of `ft` points in an image that has NVIDIA's library (FT_LIBRARY=1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.machine import gpu_names
from bench.point.platform import Platform
from bench.point.spec import Backend, PointSpec
from engines.core.config import EngineConfig, System
from engines.core.executor import Executor
from engines.core.models import find_model
from engines.ft.library import Library, find_program, model_arguments
from engines.sim.profile import load_profile
from engines.sim.slots import default_slots, paper_server


def has_library(spec: PointSpec) -> bool:
    """Whether NVIDIA's library is here and serves the point."""
    ours = spec.system is System.FT and spec.backend is Backend.CUDA
    return ours and find_program() is not None


@dataclass(frozen=True, kw_only=True)
class LibraryPlatform(Platform):
    """A model in NVIDIA's library, which keeps the cache.

    KV slots only bound the batch: by default those of the paper's server for the model. Host time
    is not known: the library computes a batch as a whole.
    """

    library: Library
    tensor_parallel: int

    @property
    def default_slots(self) -> int:
        """See `Platform`."""
        profile, _ = paper_server(self.model)
        return default_slots(self.model, load_profile(profile), self.tensor_parallel)

    def executor(self, config: EngineConfig) -> Executor:
        """See `Platform`."""
        del config
        from engines.execution.ft_library import LibraryExecutor
        from engines.execution.prompts import PromptTokens

        tokens = PromptTokens(vocab_size=self.model.vocab_size, seed=self.seed)
        return LibraryExecutor(self.library.run, lambda r: tokens.of(r).tolist(), seed=self.seed)

    def inputs(self) -> dict[str, Any]:
        """Whose code runs, and from which commit of it."""
        return {"ft_library_commit": self.library.commit, "weights": "random"}

    def close(self) -> None:
        """End the library's process."""
        self.library.close()


def load_library(spec: PointSpec) -> LibraryPlatform:
    """Start the library with the point's model and random weights; raises UserError."""
    program = find_program()
    assert program is not None, "asked for without having asked has_library"
    model = find_model(spec.model)
    degree = spec.tensor_parallel or 1
    arguments = model_arguments(model, degree, dtype=spec.dtype or "float16")
    name = next(iter(gpu_names()), "GPU")
    return LibraryPlatform(
        model=model,
        device=f"{degree}x {name} (NVIDIA's FasterTransformer)",
        seed=spec.seed,
        library=Library(program, arguments),
        tensor_parallel=degree,
    )
