"""The platform of `ft` points in an image that has NVIDIA's library (FT_LIBRARY=1)."""

from __future__ import annotations

import shutil

from bench.machine import gpu_names
from bench.point.platform import Platform
from bench.point.spec import Backend, PointSpec
from engines.core.config import System
from engines.core.executor import Executor
from engines.core.models import find_model
from engines.ft.library import PROGRAM, Library, model_arguments
from engines.sim.profile import load_profile
from engines.sim.slots import default_slots, paper_server


def has_library(spec: PointSpec) -> bool:
    """Whether NVIDIA's library is here and serves the point."""
    ours = spec.system is System.FT and spec.backend is Backend.CUDA
    return ours and shutil.which(PROGRAM) is not None


def load_library(spec: PointSpec) -> Platform:
    """Start the library with the point's model and random weights; raises UserError.

    The library keeps the cache: KV slots only bound the batch, by default those of the paper's
    server for the model. Host time is not known, since it computes a batch as a whole.
    """
    program = shutil.which(PROGRAM)
    assert program is not None, "asked for without having asked has_library"
    model = find_model(spec.model)
    degree = spec.tensor_parallel or 1
    library = Library(program, model_arguments(model, degree, dtype=spec.dtype or "float16"))
    name = next(iter(gpu_names()), "GPU")
    return Platform(
        model=model,
        device=f"{degree}x {name} (NVIDIA's FasterTransformer)",
        inputs={"ft_library_commit": library.commit, "weights": "random"},
        default_slots=lambda: default_slots(model, load_profile(paper_server(model)[0]), degree),
        create_executor=lambda config, seed: _create_executor(library, model.vocab_size, seed),
        close=library.close,
    )


def _create_executor(library: Library, vocab_size: int, seed: int) -> Executor:
    from engines.execution.ft_library import LibraryExecutor
    from engines.execution.prompts import PromptTokens

    tokens = PromptTokens(vocab_size=vocab_size, seed=seed)
    return LibraryExecutor(library.run, lambda r: tokens.of(r).tolist(), seed=seed)
