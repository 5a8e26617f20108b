"""Tiny checkpoints with heads that the kernels take; without torch these tests are skipped."""

from __future__ import annotations

import importlib.util

import pytest

HAS_TORCH = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
collect_ignore_glob = [] if HAS_TORCH else ["test_real_*.py"]


def pytest_report_header() -> list[str]:
    return [] if HAS_TORCH else ["tests of real execution left out: torch and transformers needed"]


@pytest.fixture(scope="module", autouse=True)
def _on_one_thread(one_thread: None) -> None:
    """All of these tests."""
