"""Measured kernels as figures."""

from __future__ import annotations

import pytest

from bench.experiments import registry
from bench.experiments.tables import Choice
from plot.draw import MEASURED_DRAWERS, draw
from plot.kernels import draw_kernel_latency, draw_measured_costs, measured_footer


def test_latencies_lie_where_they_were_measured_and_ratios_above(made_up):
    found = made_up().kernels("attention", backend="sim")
    canvas = draw_kernel_latency(found)
    assert [ax.get_title() for ax in canvas.axes] == ["(a) Batch size 8", "(b) Batch size 32"]
    small, large = canvas.axes
    for ax, batch in ((small, 8), (large, 32)):
        heights = sorted(list(line.get_ydata()) for line in ax.lines if len(line.get_ydata()) == 3)
        expected = [[f * batch * c * 1e-2 for c in (64, 128, 256)] for f in (1.0, 1.1)]
        assert expected[0] in [pytest.approx(h) for h in heights]
        assert expected[1] in [pytest.approx(h) for h in heights]
        assert [text.get_text() for text in ax.texts] == ["1.10x"] * 3
        assert ax.get_ylim()[0] == 0


def test_the_footer_names_device_model_and_method(made_up):
    text = measured_footer(made_up().kernels("attention", backend="sim"))
    for word in ("Measured on CPU, CPU, made up", "opt-125m", "float32", "10 GB/s", "cold"):
        assert word in text
    assert "imulated" not in text


def test_preemption_is_computed_in_the_simulation_and_measured_where_models_run(
    made_up, tmp_path, monkeypatch
):
    shown = []
    monkeypatch.setitem(
        MEASURED_DRAWERS, "recovery", lambda found: shown.append(1) or draw_measured_costs(found)
    )
    draw("fig19-a", made_up(), tmp_path, Choice())
    assert not shown
    draw("fig19-a", made_up(), tmp_path, Choice(backend="cpu"))
    assert shown
    assert registry.FIGURES["fig19-a"].is_measured(Choice(backend="cpu").backend)


def test_swapping_both_ways_is_the_sum(made_up):
    (ax,) = draw_measured_costs(made_up().kernels("recovery", backend="cpu")).axes
    lines = {tuple(line.get_ydata()) for line in ax.lines}
    assert any(line == pytest.approx((50.0, 50 / 16, 50 / 256)) for line in lines)
    assert "measured on this CPU" in ax.get_title()
