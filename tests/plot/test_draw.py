"""Figures as files."""

from dataclasses import replace

import pytest
from matplotlib import style
from matplotlib.figure import Figure as Canvas
from matplotlib.text import Text

from bench.experiments import registry
from bench.experiments.effort import Effort
from bench.experiments.tables import Choice, Searched, load_panel
from bench.results.store import State
from engines.core.errors import UserError
from plot.draw import DRAWERS, MEASURED_DRAWERS, STYLE, draw
from plot.latency import draw_latency, draw_panel
from plot.layout import finish

SHAREGPT = "fig12-13b-sharegpt"


FIGURES = list(registry.FIGURES)


@pytest.mark.parametrize("name", [*FIGURES, "fig12-13b", SHAREGPT, "fig15-alpaca-n2"])
def test_each_figure_is_a_pdf_and_a_png(made_up, tmp_path, name):
    files = draw(name, made_up(), tmp_path)
    assert [path.name for path in files] == [f"{name}.pdf", f"{name}.png"]
    assert files[0].read_bytes().startswith(b"%PDF")
    assert files[1].read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("width_in", [3.4, 3.5, 5.2, 5.4, 7.05])
def test_footers_fit_their_figures(width_in):
    text = (
        "Simulated, device profile 1x a100-40gb · OPT-13B, ShareGPT, Alpaca · Orca: our proxy on "
        "the same engine · FasterTransformer: our request-level policy · traces of 3600 and 1800 s"
    )
    with style.context(STYLE):
        for length in range(60, len(text), 2):
            canvas = Canvas(figsize=(width_in, 2.0), dpi=300, layout="constrained")
            finish(canvas, footer=text[:length], gaps=[])
            for line in canvas.texts:
                box = line.get_window_extent()
                assert 0 <= box.x0 < box.x1 <= canvas.bbox.x1, line.get_text()


def test_a_group_draws_each_of_its_figures(made_up, tmp_path):
    files = draw("fig19", made_up(), tmp_path)
    assert {path.stem for path in files} == {"fig19-a", "fig19-b"}


def test_equal_results_give_equal_bytes(made_up, tmp_path):
    first, second = (draw("fig2", made_up(), tmp_path / name) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_fonts_are_embedded_as_outlines_that_printers_take(made_up, tmp_path):
    pdf = draw("fig2", made_up(), tmp_path)[0].read_bytes()
    assert b"/Type3" not in pdf
    assert b"/CreationDate" not in pdf


def test_corrupt_results_are_named_and_never_drawn(made_up, tmp_path):
    store = made_up(lambda spec: State.CORRUPT if spec.system == "orca-max" else None)
    with pytest.raises(UserError, match=r"orca-max at 4 req/s .* corrupt"):
        draw("fig2", store, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("state", [State.CORRUPT, State.MISSING])
def test_the_command_in_a_message_makes_the_very_results_that_were_asked_for(
    made_up, tmp_path, state
):
    choice = Choice.of(effort=Effort.QUICK, overrides={"seed": 3, "lengths": "my lengths.csv"})
    options = r"--backend sim --quick --lengths 'my lengths\.csv' --seed 3"
    with pytest.raises(UserError, match=rf"run 'bench figure fig2\S* {options}'"):
        draw("fig2", made_up(lambda spec: state), tmp_path, choice)


def test_nothing_to_draw_says_how_to_get_results(made_up, tmp_path):
    store = made_up(lambda spec: State.MISSING)
    with pytest.raises(UserError, match="bench figure fig2"):
        draw("fig2", store, tmp_path)


def test_figures_without_results_are_left_out_of_a_group(made_up, tmp_path):
    store = made_up(lambda spec: None if spec.rate == 4.0 else State.MISSING)
    stems = {path.stem for path in draw("all", store, tmp_path)}
    assert "fig13" not in stems
    assert "fig2" in stems


def test_computed_figures_need_no_results(made_up, tmp_path):
    store = made_up(lambda spec: State.MISSING)
    for name in ("fig11", "fig19-a"):
        assert draw(name, store, tmp_path)


def test_a_figure_with_gaps_is_still_drawn(made_up, tmp_path):
    store = made_up(lambda spec: State.MISSING if spec.system in ("astra", "ft") else None)
    for name in ("fig2", "fig13", SHAREGPT, "fig1"):
        assert draw(name, store, tmp_path)


@pytest.mark.parametrize("name", ["fig18-b", "fig19-b", "fig15", "fig1"])
def test_single_gaps_leave_the_other_points(made_up, tmp_path, name):
    def lost(spec):
        missing = spec.sampling.name == "n2" or spec.max_num_seqs == 8 or spec.block_size == 64
        return State.MISSING if missing else None

    assert draw(name, made_up(lost), tmp_path)


def test_unwritable_place_is_one_clear_line(made_up, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        draw("fig2", made_up(), tmp_path / "file")


@pytest.mark.parametrize("name", ["fig12", "fig13", "fig18-b"])
def test_titles_of_neighbours_do_not_touch_in_miniature(made_up, name):
    figure = registry.FIGURES[name]
    choice = Choice.of(backend="cpu", overrides={"scale": 0.5})
    tables = [load_panel(made_up(), panel, choice) for panel in figure.panels]
    with style.context(STYLE):
        canvas = DRAWERS[figure.plot](figure, tables)
        canvas.draw_without_rendering()
        names = {ax.get_title(loc="left") for ax in canvas.axes} - {""}
        texts = [text for ax in canvas.axes for text in ax.findobj(Text)]
        boxes = [text.get_window_extent() for text in texts if text.get_text() in names]
    assert any(name.endswith("\nin miniature") for name in names)
    assert len(boxes) == len(names)
    for i, box in enumerate(boxes):
        assert box.x1 <= canvas.bbox.x1
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])


def test_missing_point_breaks_the_line(made_up):
    lost = made_up(
        lambda spec: State.MISSING if (spec.system, spec.rate) == ("astra", 1.5) else None
    )
    ax = Canvas().subplots()
    draw_panel(ax, load_panel(lost, registry.find_panel(SHAREGPT), Choice()))
    (line,) = [
        line for line in ax.lines if line.get_linestyle() == "-" and line.get_color() == "#0072B2"
    ]
    points = dict(zip(line.get_xdata(), line.get_ydata(), strict=True))
    assert points[1.5] != points[1.5]
    assert points[1.25] == points[1.25]


def test_curves_and_ratios_have_what_was_found_by_bisection(made_up):
    table = load_panel(made_up(), registry.find_panel(SHAREGPT), Choice())
    searched = {
        "astra": Searched(9.0, ((8.8, 0.97), (9.1, 1.02))),
        "orca-oracle": Searched(3.0, ((2.9, 0.4),)),
    }
    ax = Canvas().subplots()
    draw_panel(ax, replace(table, searched=searched))
    assert "3.0$\\times$" in [text.get_text() for text in ax.texts]
    (line,) = [
        line for line in ax.lines if line.get_linestyle() == "-" and line.get_color() == "#0072B2"
    ]
    points = dict(zip(line.get_xdata(), line.get_ydata(), strict=True))
    assert list(points) == sorted(points)
    assert (points[8.8], points[9.1]) == (0.97, 1.02)


def test_legend_names_a_curve_by_its_own_label(made_up):
    figure = registry.FIGURES["fig16"]
    tables = [load_panel(made_up(), panel, Choice()) for panel in figure.panels]
    (legend,) = draw_latency(figure, tables).legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["Astra, shared prefix", "Orca (Oracle)"]


def test_every_figure_that_can_run_has_a_drawer():
    for figure in registry.FIGURES.values():
        if not figure.is_measured("sim"):
            assert figure.plot in DRAWERS
        if figure.microbenchmark:
            assert figure.microbenchmark in MEASURED_DRAWERS
