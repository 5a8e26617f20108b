"""Fixtures of several packages' tests."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Iterator

import pytest
from small_devices import TINY

from engines.core.models import MODELS

# Sources that are being worked on differ from compiled ones: no notice in commands' output.
os.environ["BENCH_STALE_TOLD"] = "1"

# A shell that starts the tests in the background has them ignore Ctrl-C, and with them the commands
# to which they send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """PyTorch on one thread: waiting for each other on tiny tensors costs more than it saves."""
    if importlib.util.find_spec("torch") is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure the CPU in no time: small buffers, and opt-125m is a tiny model.

    Skips where there are no compiled kernels to be measured.
    """
    pytest.importorskip("torch")
    from bench.devices import timing
    from engines.kernels import library

    if not library.load_kernels("cpu").compiled:
        pytest.skip("no compiled CPU kernels (no C++ compiler?)")
    monkeypatch.setattr(timing, "FLUSH_BYTES", 1 << 16)
    monkeypatch.setattr(timing, "COPY_BYTES", 1 << 16)
    monkeypatch.setitem(MODELS, "opt-125m", TINY)
