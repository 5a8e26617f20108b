"""Tiny checkpoints with heads that the kernels take; without torch these tests are skipped."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest

HAS_TORCH = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
collect_ignore_glob = [] if HAS_TORCH else ["test_real_*.py"]


def pytest_report_header() -> list[str]:
    return [] if HAS_TORCH else ["tests of real execution left out: torch and transformers needed"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other on tiny tensors cost more than they save."""
    if not HAS_TORCH:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
