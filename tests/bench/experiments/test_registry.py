"""The registry: complete, consistent with the paper's facts, and found by every name."""

import json
from dataclasses import replace
from importlib import resources

import pytest
from places import SHARED

from bench.claims.measures import MEASURES
from bench.experiments import registry
from bench.experiments.effort import Effort, gpu_hours
from bench.experiments.fig_common import paper_number
from bench.experiments.model import Figure
from bench.experiments.tables import Choice
from engines.core.config import System
from engines.core.errors import UserError
from engines.core.request import SamplingParams

SHARED_CLAIMS = SHARED / "paper" / "claims.json"
ALL_CLAIMS = [
    *registry.TABLE1_CLAIMS,
    *(claim for figure in registry.FIGURES.values() for claim in figure.claims),
]


def shipped_claims() -> dict:
    return json.loads(resources.files("bench.experiments").joinpath("claims.json").read_text())


def leaves(value, path=()):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    else:
        yield ":".join(path), value


def test_shipped_claims_are_the_papers():
    if not SHARED_CLAIMS.exists():
        pytest.skip("the paper's facts are not beside the repository")
    assert shipped_claims() == json.loads(SHARED_CLAIMS.read_text())


def test_every_figure_of_the_paper_is_described():
    expected = {f"fig{n}" for n in (1, 2, 11, 12, 13, 14, 15, 16, 17)}
    expected |= {"fig18-a", "fig18-b", "fig19-a", "fig19-b"}
    assert set(registry.FIGURES) == expected


@pytest.mark.parametrize("figure", registry.FIGURES.values(), ids=lambda f: f.name)
def test_figure_says_what_a_reader_needs(figure: Figure):
    assert figure.title
    assert figure.section
    assert figure.claim
    assert figure.hardware
    assert not figure.pending


@pytest.mark.parametrize("name", registry.names())
def test_every_name_is_found(name):
    selection = registry.find(name)
    assert selection.figures or selection.pending


def test_names_of_panels_are_unique():
    names = [panel.name for figure in registry.FIGURES.values() for panel in figure.panels]
    assert len(names) == len(set(names))


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(UserError, match="fig12-13b-sharegpt"):
        registry.find("fig12-13b-sharegtp")


def test_groups_leave_out_what_cannot_run_and_say_why(monkeypatch):
    pending = replace(registry.FIGURES["fig18-b"], pending="it cannot run yet")
    monkeypatch.setitem(registry.FIGURES, "fig18-b", pending)
    selection = registry.find("fig18")
    assert [figure.name for figure in selection.figures] == ["fig18-a"]
    assert set(selection.pending) == {"fig18-b"}
    with pytest.raises(UserError, match=r"fig18-b.*it cannot run yet"):
        registry.find("fig18-b").require_runnable()


def test_kernels_are_measured_whatever_the_backend_and_preemption_where_models_run():
    kernels, recovery = registry.FIGURES["fig18-a"], registry.FIGURES["fig19-a"]
    assert [kernels.is_measured(backend) for backend in ("sim", "cpu", "cuda")] == [True] * 3
    assert [recovery.is_measured(b) for b in ("sim", "cpu", "cuda")] == [False, True, True]
    assert not any(registry.FIGURES[name].is_measured("cuda") for name in ("fig2", "fig18-b"))


def test_the_main_comparison_is_figure_12_with_opt_13b_and_figure_14():
    assert [f.name for f in registry.find("all-main").figures] == ["fig12-13b", "fig14"]
    everything = registry.find("all")
    assert {f.name for f in everything.figures} | set(everything.pending) == set(registry.FIGURES)


def test_part_of_a_figure_keeps_only_its_panels():
    selection = registry.find("fig12-66b")
    assert [panel.name for panel in selection.panels] == ["fig12-66b-sharegpt", "fig12-66b-alpaca"]
    assert selection.figures[0].name == "fig12-66b"


@pytest.mark.parametrize("figure", registry.FIGURES.values(), ids=lambda f: f.name)
@pytest.mark.parametrize("effort", list(Effort))
def test_points_are_valid_and_their_windows_inside_the_trace(figure: Figure, effort: Effort):
    choice = Choice.of(effort=effort)
    points = [point for panel in figure.panels for point in choice.points(panel)]
    assert len({point.digest for point in points}) == len(points)
    for point in points:
        System.parse(point.system)
        SamplingParams.parse(point.sampling)
        assert point.window is None or point.window[1] <= point.duration
        assert point.warmup is None or point.warmup < point.duration


def test_every_saving_of_figure_15_is_claimed_in_each_panel():
    figure = registry.FIGURES["fig15"]
    claimed = {(claim.args["panel"], claim.path) for claim in figure.claims}
    assert len(claimed) == len(figure.panels) == 12
    assert {path.split(":")[1] for _, path in claimed} == {"alpaca", "sharegpt"}


def test_a_list_of_block_sizes_is_a_range():
    assert paper_number("fig18b:best_block_sizes:sharegpt") == (16.0, 128.0)
    assert paper_number("fig18b:best_block_sizes:alpaca") == (16.0, 32.0)


def test_figures_without_panels_are_computed_or_measured():
    without = [f for f in registry.FIGURES.values() if not f.panels]
    assert {f.name for f in without if not f.is_measured("sim")} == {"fig11", "fig19-a"}
    assert {f.name for f in without if f.is_measured("sim")} == {"fig18-a"}


def test_figure_12_has_six_panels_of_five_systems():
    figure = registry.FIGURES["fig12"]
    assert len(figure.panels) == 6
    for panel in figure.panels:
        assert {curve.system for curve in panel.curves} == {system.value for system in System}


@pytest.mark.parametrize(
    ("panel", "size"),
    [
        ("fig12-13b-sharegpt", 5),
        ("fig12-13b-alpaca", 14),
        ("fig12-66b-sharegpt", 2),
        ("fig12-66b-alpaca", 8),
        ("fig12-175b-sharegpt", 24),
        ("fig12-175b-alpaca", 80),
    ],
)
def test_ft_has_the_original_batch_sizes(panel, size):
    points = registry.find_panel(panel).points()
    assert {p.max_batch_size for p in points if p.system == "ft"} == {size}
    assert {p.max_batch_size for p in points if p.system != "ft"} == {None}


def test_full_traces_are_the_papers():
    for name, duration in (("fig12-13b-sharegpt", 3600.0), ("fig12-175b-alpaca", 900.0)):
        points = Choice.of(effort=Effort.FULL).points(registry.find_panel(name))
        assert {point.duration for point in points} == {duration}


def test_overrides_reach_every_point():
    points = registry.find("fig12").points(seed=7, backend="cpu")
    assert {(point.seed, point.backend) for point in points} == {(7, "cpu")}


def test_rates_of_a_curve_rise_and_contain_the_originals():
    for figure in registry.FIGURES.values():
        for panel in figure.panels:
            for curve in panel.curves:
                assert list(curve.all_rates) == sorted(set(curve.all_rates))
                assert set(curve.rates) <= set(curve.all_rates)
                assert not set(curve.rates) & set(curve.extra_rates)


@pytest.mark.parametrize("claim", ALL_CLAIMS, ids=lambda c: c.text)
def test_claims_take_their_number_from_the_paper_and_can_be_measured(claim):
    assert claim.paper == paper_number(claim.path)
    assert claim.measure in MEASURES
    assert claim.kind in ("points", "relative", "range", "at-most")
    assert claim.tolerance >= 0


def test_every_number_of_the_runnable_figures_is_claimed():
    claimed = {claim.path for claim in ALL_CLAIMS}
    covered = ("fig2:", "fig12:", "fig13:", "fig14:", "fig16:", "fig17:", "fig18b:", "table1:")
    for path, _ in leaves(shipped_claims()):
        if path.startswith(covered) and not path.endswith(":unit"):
            assert path in claimed, f"no claim for {path}"


def test_calibrated_claims_are_listed_as_calibrations():
    marked = {claim.path for claim in ALL_CLAIMS if claim.calibrated}
    listed = tuple(item.path for item in registry.CALIBRATIONS)
    assert marked
    assert all(path.startswith(listed) for path in marked)


def test_gpu_hours_follow_from_the_papers_traces_and_devices():
    assert gpu_hours(registry.FIGURES["fig2"], Effort.FULL) == pytest.approx(4 * 900 / 3600)
    assert gpu_hours(registry.FIGURES["fig2"], Effort.QUICK) == pytest.approx(900 / 3600)
    part = registry.find("fig12-66b-sharegpt").figures[0]
    originals = sum(len(curve.rates) for curve in part.panels[0].curves)
    assert gpu_hours(part, Effort.FULL) == pytest.approx(originals * 4)
