"""Checkpoints are made once a session; without torch and transformers these tests are skipped."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HAS_TORCH = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
collect_ignore = (
    []
    if HAS_TORCH
    else [
        "test_checkpoint.py",
        "test_dummy_weights.py",
        "test_generation.py",
        "test_packed_linear.py",
        "test_against_transformers.py",
        "test_tensor_parallel_models.py",
    ]
)

CheckpointMaker = Callable[[str], tuple[Any, Path]]


@pytest.fixture(scope="module", autouse=True)
def _on_one_thread(one_thread: None) -> None:
    """All of these tests."""


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> CheckpointMaker:
    """Make (model of transformers, its checkpoint directory in one safetensors file) by kind."""
    from tiny_models import make_reference

    made: dict[str, tuple[Any, Path]] = {}

    def make(kind: str) -> tuple[Any, Path]:
        if kind not in made:
            model, directory = make_reference(kind), tmp_path_factory.mktemp(kind)
            model.save_pretrained(directory)
            made[kind] = (model, directory)
        return made[kind]

    return make
