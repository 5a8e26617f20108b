from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")

from bench.devices.timing import cache_bytes, time_cases


@pytest.mark.usefixtures("small_device")
def test_every_second_round_goes_backward_and_the_share_done_is_told() -> None:
    made: list[str] = []
    told: list[float] = []

    def case(name: str) -> Callable[[], Callable[[], object]]:
        def prepare() -> Callable[[], object]:
            made.append(name)
            return lambda: None

        return prepare

    cases = {name: case(name) for name in "abc"}
    found = time_cases(cases, "cpu", samples=2, rounds=2, tell=told.append)
    assert made == [*"abc", *"cba"]
    assert told == pytest.approx([n / 6 for n in range(1, 7)])
    assert list(found) == [*"abc"]
    assert all([len(samples) for samples in rounds] == [2, 2] for rounds in found.values())


def test_shared_caches_of_the_last_level_count_once(tmp_path: Path) -> None:
    assert cache_bytes(tmp_path) is None
    caches = {
        "cpu0/cache/index0": ("1", "0", "32K"),
        "cpu0/cache/index3": ("3", "0-1", "1024K"),
        "cpu1/cache/index3": ("3", "0-1", "1024K"),
        "cpu2/cache/index3": ("3", "2-3", "512K"),
    }
    for place, values in caches.items():
        folder = tmp_path / place
        folder.mkdir(parents=True)
        for name, value in zip(("level", "shared_cpu_list", "size"), values, strict=True):
            (folder / name).write_text(f"{value}\n")
    assert cache_bytes(tmp_path) == (1024 + 512) << 10
