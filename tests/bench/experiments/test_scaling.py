from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench.experiments import miniature as scaling
from bench.experiments import registry
from bench.experiments.effort import Effort, at_effort
from bench.experiments.tables import Choice
from bench.point.spec import PointSpec
from bench.workloads.build import build_workload
from engines.core.errors import UserError

SPEED = 0.5


@pytest.mark.parametrize("name", ["fig2", "fig12-13b", "fig13"])
def test_a_figure_in_miniature_keeps_its_proportions(name: str) -> None:
    for whole in registry.find(name).panels:
        panel = at_effort(whole, Effort.SHORT)  # whose traces and rates are the scripts'
        small = scaling.scale_panel(whole, SPEED)
        assert small.name == panel.name
        assert "miniature" in small.title
        speed = SPEED * (scaling.LARGE_BATCHES if "alpaca" in panel.name else 1.0)
        assert f"lengths / 32, rates x {32 * speed:g}" in small.note
        assert [c.system for c in small.curves] == [c.system for c in panel.curves]
        for before, after in zip(panel.curves, small.curves, strict=True):
            assert 1 <= len(after.all_rates) <= 3
            highest = before.all_rates[-1] * scaling.SHRINK * speed
            assert after.all_rates[-1] == pytest.approx(highest, rel=0.01)
        for spec in small.points(backend="cpu"):
            assert spec.model == scaling.MODEL
            assert spec.block_size == 1
            assert spec.kv_slots == 15_700 // scaling.SHRINK
            if spec.window is not None:
                start, end = panel.settings["window"]
                share = spec.duration / panel.settings["duration"]
                assert spec.window[1] == pytest.approx(share * end)
                assert spec.window[0] >= share * start
                assert spec.window[0] >= spec.duration / 4


LIMIT_S, START_S = 600, 6  # ten minutes; the start of a point's process, generously


@pytest.mark.parametrize("name", ["fig2", "fig12-13b", "fig13"])
def test_a_figure_in_miniature_takes_less_than_ten_minutes_on_any_device(name: str) -> None:
    for speed in (scaling.SLOWEST, 1.0, 10.0):
        points = [p for panel in registry.find(name).panels
                  for p in scaling.scale_panel(panel, speed).points(backend="cpu")]  # fmt: skip
        assert all(p.timeout is not None and p.timeout >= p.duration for p in points)
        assert sum((p.timeout or 0) + START_S for p in points) < LIMIT_S
        # Each point has some requests even on the slowest device.
        assert min(p.rate * p.duration for p in points) > 4


@pytest.mark.parametrize("name", registry.FIGURES)
def test_every_block_of_a_figure_in_miniature_fits_a_request_and_the_cache(name: str) -> None:
    for panel in filter(scaling.has_miniature, registry.find(name).panels):
        small = scaling.scale_panel(panel, SPEED)
        for spec in small.points(backend="cpu"):
            context = 2048 // spec.shrink
            assert spec.block_size <= context
            assert spec.kv_slots is not None
            assert spec.kv_slots // spec.block_size >= 2 * -(-context // spec.block_size)
        left_out = len(small.curves) < len(panel.curves)
        assert left_out == ("blocks of at most 64 tokens" in small.note)
        assert left_out == name.startswith(("fig18-b", "fig19-b"))


def test_choices_without_a_scale_are_untouched() -> None:
    panel = registry.find_panel("fig13-13b-sharegpt")
    assert Choice.of(backend="sim").panel(panel) is panel
    chosen = Choice.of(backend="cpu", overrides={"scale": SPEED, "seed": 3})
    assert chosen.points(panel)[0].seed == 3
    assert chosen.points(panel)[0].shrink == scaling.SHRINK


def test_larger_models_have_no_miniature() -> None:
    panel = registry.find_panel("fig12-66b-sharegpt")
    assert scaling.scale_panel(panel, SPEED) is panel
    with pytest.raises(UserError, match="opt-66b, which has no miniature"):
        scaling.require_miniature(panel)


def test_the_speed_is_measured_once(tmp_path: Path) -> None:
    def add(speed: float | None, given: dict[str, float] | None = None) -> dict[str, float]:
        measure = None if speed is None else lambda: speed
        return scaling.with_speed(given or {}, tmp_path / "a", backend="cpu", measure=measure)

    with pytest.raises(UserError, match="run 'bench figure' first"):
        add(None)
    assert add(0.25) == {"scale": 0.25}
    assert add(0.75) == add(None) == {"scale": 0.25}
    assert add(0.75, given={"scale": 2.0}) == {"scale": 2.0}
    assert json.loads((tmp_path / "a" / "scale-cpu.json").read_text())["speed"] == 0.25
    assert scaling.with_speed({}, tmp_path, backend="sim", measure=lambda: 0.5) == {}


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"speed": "fast"}', '{"speed": 0}'])
def test_a_damaged_speed_is_one_clear_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "scale-cpu.json").write_text(content)
    with pytest.raises(UserError, match=r"scale-cpu\.json does not tell this CPU's speed"):
        scaling.with_speed({}, tmp_path, backend="cpu")
    assert scaling.with_speed({"scale": 2.0}, tmp_path, backend="cpu") == {"scale": 2.0}


def test_shrunk_workloads_keep_arrivals_and_fit_the_shrunk_context() -> None:
    whole = build_workload("sharegpt", rate=50.0, duration=60.0, seed=0)
    small = whole.shrunk(32)
    assert np.array_equal(small.arrival_s, whole.arrival_s)
    assert np.array_equal(small.input_len, np.maximum(whole.input_len // 32, 1))
    assert (small.input_len + small.output_len).max() <= 2048 // 32
    assert small.output_len.min() == 1
    assert whole.shrunk(1) is whole
    with pytest.raises(UserError, match="shrink must be at least 1"):
        PointSpec(system="astra", shrink=0)
