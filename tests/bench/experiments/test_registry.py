"""The registry: complete, consistent with the paper's facts, and found by every name."""

import csv
import json

import pytest
from places import ROOT, SHARED

from bench.claims.measures import MEASURES
from bench.experiments import registry
from bench.experiments.effort import Effort, gpu_hours
from bench.experiments.model import Claim, Figure
from bench.experiments.tables import Choice
from bench.workloads.assumed import assumptions
from engines.core.errors import UserError
from engines.sim.profile import load_profile

PAPER = SHARED / "paper" / "claims.json"
REFERENCE = ROOT / "artifacts" / "reference" / "sim"
FIGURES = registry.FIGURES.values()
ALL_CLAIMS = [*registry.TABLE1_CLAIMS, *(claim for figure in FIGURES for claim in figure.claims)]


def leaves(value, path=()):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    else:
        yield ":".join(path), value


def test_claims_are_the_papers():
    if not PAPER.exists():
        pytest.skip("the paper's facts are not beside the repository")
    facts = dict(leaves(json.loads(PAPER.read_text())))
    claimed = {claim.path: claim.paper for claim in ALL_CLAIMS}
    for path, paper in claimed.items():
        fact = facts[path]  # of more than two block sizes, the ends count
        assert paper == ((fact[0], fact[-1]) if isinstance(fact, list) else fact), path
    unclaimed = {path for path in facts if path not in claimed and not path.endswith(":unit")}
    assert unclaimed == {"fig19:comparable_block_sizes"}


@pytest.mark.parametrize("claim", ALL_CLAIMS, ids=lambda c: f"{c.path} {c.text}")
def test_claims_can_be_measured(claim: Claim):
    assert claim.measure in MEASURES
    assert claim.kind in ("points", "relative", "range", "at-most")
    assert all(half > 0 for half in claim.half_units)
    if claim.tolerance is not None:
        assert claim.tolerance > 0
    named = [claim.args.get(key) for key in ("panel", "over", "under")]
    panels = [*claim.args.get("panels", ()), *(n for n in named if n and n.startswith("fig"))]
    assert set(panels) <= set(registry.names())


def test_every_figure_of_the_paper_is_described():
    expected = {f"fig{n}" for n in (1, 2, 11, 12, 13, 14, 15, 16, 17)}
    expected |= {"fig18-a", "fig18-b", "fig19-a", "fig19-b"}
    assert set(registry.FIGURES) == expected
    for figure in FIGURES:
        assert all((figure.title, figure.section, figure.claim, figure.hardware, figure.plot))


@pytest.mark.parametrize("name", registry.names())
def test_every_name_is_found(name):
    assert registry.find(name).figures


def test_names_of_panels_are_unique():
    names = [panel.name for figure in FIGURES for panel in figure.panels]
    assert len(names) == len(set(names))


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(UserError, match="fig12-13b-sharegpt"):
        registry.find("fig12-13b-sharegtp")


def test_kernels_are_measured_whatever_the_backend_and_preemption_where_models_run():
    kernels, recovery = registry.FIGURES["fig18-a"], registry.FIGURES["fig19-a"]
    assert [kernels.is_measured(backend) for backend in ("sim", "cpu", "cuda")] == [True] * 3
    assert [recovery.is_measured(b) for b in ("sim", "cpu", "cuda")] == [False, True, True]
    without = {figure.name for figure in FIGURES if not figure.panels}
    assert without == {"fig11", "fig18-a", "fig19-a"}


def test_the_main_comparison_is_figure_12_with_opt_13b_and_figure_14():
    assert [f.name for f in registry.find("all-main").figures] == ["fig12-13b", "fig14"]
    assert [f.name for f in registry.find("all").figures] == list(registry.FIGURES)


def test_part_of_a_figure_keeps_only_its_panels():
    selection = registry.find("fig12-66b")
    assert [panel.name for panel in selection.panels] == ["fig12-66b-sharegpt", "fig12-66b-alpaca"]
    assert selection.figures[0].name == "fig12-66b"


@pytest.mark.parametrize("figure", FIGURES, ids=lambda f: f.name)
@pytest.mark.parametrize("effort", list(Effort))
def test_points_are_valid_and_their_windows_inside_the_trace(figure: Figure, effort: Effort):
    choice = Choice.of(effort=effort)
    points = [point for panel in figure.panels for point in choice.points(panel)]
    assert len({point.digest for point in points}) == len(points)
    for point in points:
        assert point.window is None or point.window[1] <= point.duration
        assert point.warmup is None or point.warmup < point.duration


@pytest.mark.parametrize(("effort", "folder"), [(Effort.FULL, ""), (Effort.QUICK, "quick")])
def test_points_are_those_of_the_committed_reference_in_its_order(effort: Effort, folder: str):
    with (REFERENCE / folder / "points.csv").open() as file:
        committed = [(row["panel"], row["digest"]) for row in csv.DictReader(file)]
    choice = Choice.of(effort=effort)
    panels = registry.find("all").panels
    points = [(p.name, spec.digest) for p in panels for spec in choice.points(p)]
    assert committed[: len(points)] == points  # the searches' follow
    assert (len(committed) == len(points)) is (effort is Effort.QUICK)


def test_every_saving_of_figure_15_is_claimed_in_each_panel():
    figure = registry.FIGURES["fig15"]
    claimed = {(claim.args["panel"], claim.path) for claim in figure.claims}
    assert len(claimed) == len(figure.panels) == 12
    assert {path.split(":")[1] for _, path in claimed} == {"alpaca", "sharegpt"}


def test_a_varied_setting_makes_a_curve_for_each_of_its_values():
    curves = registry.find_panel("fig18-b-sharegpt").curves
    assert [curve.settings["block_size"] for curve in curves] == [2**n for n in range(9)]
    assert curves[4].label == "block size 16"


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


def test_traces_are_the_papers_and_on_gpus_those_of_the_original_scripts():
    for name, duration in (("fig12-13b-sharegpt", 3600.0), ("fig12-175b-alpaca", 900.0)):
        panel = registry.find_panel(name)
        for choice in (Choice(), Choice.of(backend="sim"), Choice.of(effort=Effort.FULL)):
            assert {point.duration for point in choice.points(panel)} == {duration}
        for choice in (Choice.of(backend="cuda"), Choice.of(effort=Effort.SHORT)):
            assert {point.duration for point in choice.points(panel)} == {600.0}


def test_overrides_reach_every_point():
    points = registry.find("fig12").figures[0].points(seed=7, backend="cpu")
    assert {(point.seed, point.backend) for point in points} == {(7, "cpu")}


def test_rates_of_a_curve_rise_and_contain_the_originals():
    for curve in (c for figure in FIGURES for panel in figure.panels for c in panel.curves):
        assert list(curve.all_rates) == sorted(set(curve.all_rates))
        assert all(isinstance(rate, float) for rate in curve.all_rates)  # as digests have them
        assert not set(curve.rates) & set(curve.extra_rates)


def test_a_tolerance_of_its_own_has_a_reason():
    """All others are half a unit of the last digit that the paper prints."""
    for claim in ALL_CLAIMS:
        assert bool(claim.because) is (claim.tolerance is not None), claim.text


def test_no_number_is_predicted_that_a_parameter_was_fitted_on():
    for item in registry.CALIBRATIONS:
        for start in item.claims:
            fitted = [claim for claim in ALL_CLAIMS if claim.path.startswith(start)]
            assert fitted, f"{item.parameter} was fitted on no claim {start}"
            assert all(item.parameter in claim.calibrated for claim in fitted)
    listed = tuple(start for item in registry.CALIBRATIONS for start in item.claims)
    for claim in ALL_CLAIMS:
        assert bool(claim.calibrated) is claim.path.startswith(listed)


def test_every_fitted_parameter_names_the_claims_it_was_fitted_on():
    """What profiles and assumptions call calibrated is what the registry lists, and no more."""
    servers = [panel.settings["device_profile"] for figure in FIGURES for panel in figure.panels]
    profiles = [load_profile(name) for name in dict.fromkeys(servers)]
    in_profiles = {name for profile in profiles for name in profile.calibrated}
    assumed = {a.name for a in assumptions() if a.source.startswith("calibrated")}
    listed = {name: item for item in registry.CALIBRATIONS for name in item.names}
    assert in_profiles | assumed <= set(listed)
    for name, item in listed.items():
        known = in_profiles if "profile" in item.where else assumed
        assert known & set(item.names) or item.where == "the simulation's beam search", name


def test_gpu_hours_follow_from_the_papers_traces_and_devices():
    assert gpu_hours(registry.FIGURES["fig2"], Effort.QUICK) == pytest.approx(900 / 3600)
    part = registry.find("fig12-66b-sharegpt").figures[0]
    originals = sum(len(curve.rates) for curve in part.panels[0].curves)
    assert gpu_hours(part, Effort.FULL) == pytest.approx(originals * 4)
