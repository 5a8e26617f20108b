"""The report's page: whole, escaped, self-contained and accessible, by parsing it."""

from dataclasses import replace
from html.parser import HTMLParser

import pandas as pd
import pytest
from capacity_fakes import fill

from bench.claims.counts import count
from bench.claims.measures import Measurement
from bench.claims.verdicts import Status, by_reason, judge, records
from bench.experiments import registry
from bench.experiments.capacity import Estimate
from bench.experiments.tables import Choice
from bench.report.build import build_report
from bench.report.pictures import Drawing, draw_all
from bench.report.render import prose, to_html
from bench.report.scale import EDGE, WIDTH, scale
from bench.results.store import Store
from bench.validation.record import Found
from bench.workloads.assumed import assumptions

PANEL = "fig12-13b-sharegpt"
VOID = {"img", "meta", "br", "hr"}
LOADING = ("src", "srcset", "data", "poster", "action", "background", "xlink:href")


class Page(HTMLParser):
    """What a test needs to know of a page; refuses elements that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] not in ("style", "title"):
            self.text.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self) -> str:
        return " ".join("".join(self.text).split())


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "artifacts", source="present")


@pytest.fixture(scope="module")
def drawings(tmp_path_factory) -> dict[str, Drawing]:
    """Drawn once for all tests: it takes longer than everything else."""
    store = Store(tmp_path_factory.mktemp("drawn"), source="present")
    fill(store, "fig2")
    found = draw_all(store, Choice())
    assert found["fig2"].png
    return found


def page_of(store: Store, drawings: dict[str, Drawing] | None = None) -> Page:
    return Page(to_html(build_report(store, Choice()), drawings or {}))


def test_page_holds_every_verdict_with_its_numbers(store):
    fill(store, "fig2", PANEL)
    report = build_report(store, Choice())
    page = page_of(store)
    rows = [a for a in page.of("th") if a.get("role") == "rowheader"]
    assert len(rows) >= len(report.verdicts)
    assert all(claim in page.words for claim in report.verdicts["claim"])
    assert {Status.PASS, Status.FAIL} <= set(report.verdicts["status"])
    tiles = [a["class"] for a in page.of("li") if "tile" in (a.get("class") or "")]
    assert len(tiles) == len(count(records(report.verdicts)))
    badges = [a["class"] for a in page.of("span") if "badge" in (a.get("class") or "").split()]
    rows = records(report.verdicts)
    told = by_reason(row for row in rows if row["status"] in (Status.FAIL, Status.OPEN))
    assert len(badges) == len(report.verdicts) + len(told)


def test_reasons_methods_and_assumptions_are_told(store):
    fill(store, "fig2")
    words = page_of(store).words
    assert "off by" in words
    assert all(item.fitted_on in words for item in registry.CALIBRATIONS)
    assert all(item.source in words for item in assumptions())
    assert "Orca is a proxy." in words
    assert "FasterTransformer is our policy." in words


def test_page_loads_nothing_from_elsewhere(store, drawings):
    fill(store, "fig2")
    page = page_of(store, drawings)
    assert page.of("img")
    assert not {"script", "link", "iframe", "object", "embed", "base"} & {
        t for t, _ in page.elements
    }
    for _, attributes in page.elements:
        for name in LOADING:
            if name in attributes:
                assert str(attributes[name]).startswith("data:image/png;base64,")
        assert not any(name.startswith("on") for name in attributes)
    style = (
        to_html(build_report(store, Choice()), {}).partition("<style>")[2].partition("</style>")[0]
    )
    assert "url(" not in style
    assert "@import" not in style


def test_links_lead_somewhere_and_names_are_unique(store):
    fill(store, PANEL)
    page = page_of(store)
    names = [a["id"] for _, a in page.elements if "id" in a]
    assert len(set(names)) == len(names)
    targets = [str(a["href"]) for a in page.of("a")]
    inside = [target for target in targets if not target.startswith("../results/sim/")]
    assert inside
    assert all(target.startswith("#") and target[1:] in names for target in inside)


def test_page_can_be_heard(store, drawings):
    fill(store, "fig2")
    page = page_of(store, drawings)
    assert page.of("html")[0]["lang"] == "en"
    assert all(len(str(a["alt"])) > 20 for a in page.of("img"))
    assert all("scope" in a for a in page.of("th"))
    assert len(page.of("table")) == len(page.of("caption"))
    assert all(a.get("aria-hidden") == "true" for a in page.of("svg"))
    assert len(page.of("h1")) == 1


def test_page_fits_light_dark_narrow_and_paper(store):
    text = to_html(build_report(store, Choice()), {})
    for query in ("prefers-color-scheme: dark", "max-width", "@media print"):
        assert query in text
    viewport = [a for a in Page(text).of("meta") if a.get("name") == "viewport"]
    assert viewport[0]["content"] == "width=device-width, initial-scale=1"


def test_everything_is_escaped(store):
    fill(store, "fig2")
    spoilt = registry.find("fig2").figures[0].points()[0]
    (store.directory(spoilt) / "point.json").write_text("{}")
    nasty = '<img src=x onerror="alert(1)">'
    page = page_of(store, {"fig2": Drawing(problem=nasty)})
    assert nasty in page.words
    assert all((image["src"] or "").startswith("data:image/png") for image in page.of("img"))


def test_missing_and_corrupt_results_are_named(store):
    fill(store, "fig2")
    spoilt, missing = registry.find("fig2").figures[0].points()[:2]
    path = store.directory(spoilt) / "requests.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    (store.directory(missing) / "point.json").unlink()
    words = page_of(store).words
    assert f"{spoilt.system} at 4 req/s is corrupt" in words
    assert f"{missing.system} at 4 req/s is " in words


def test_commands_in_reasons_are_marked_as_code(store):
    over_seeds = Measurement(Estimate(1.4), num_points=4, interval=(1.2, 1.9), seeds=(0, 1, 2))
    row = judge("fig17", registry.FIGURES["fig17"].claims[0], over_seeds, backend="sim")
    report = replace(build_report(store, Choice()), verdicts=pd.DataFrame([row], dtype=object))
    page = to_html(report, {})
    assert "<code>bench capacity --figure fig17 --seeds 12</code>" in page
    assert "`" not in page


def test_without_results_the_page_says_what_to_do(store):
    words = page_of(store).words
    assert "There are no results of this kind yet" in words
    assert "bench figure fig2" in words


def test_pictures_show_whether_ours_lies_inside(store):
    fill(store, "fig2")
    report = build_report(store, Choice())
    for row in records(report.verdicts):
        shape = scale(row)
        assert (shape is None) == (row["ours"] is None)
        if shape is not None:
            assert EDGE <= min(shape.allowed) <= max(shape.paper) <= WIDTH - EDGE
            assert EDGE <= shape.ours <= WIDTH - EDGE
            assert not shape.beyond or row["status"] is not Status.PASS
    shapes = [a["class"] for tag, a in page_of(store).elements if tag in ("circle", "path")]
    assert shapes == ["ours"] * report.verdicts["ours"].notna().sum()


def test_prose_escapes_text_and_marks_words():
    assert prose("**bold** and `a<b`") == "<strong>bold</strong> and <code>a&lt;b</code>"


def test_a_claim_leads_to_its_figure_its_command_and_its_points(store, drawings):
    fill(store, PANEL)
    report = build_report(store, Choice())
    page = Page(to_html(report, drawings))
    targets = {attributes["id"] for _, attributes in page.elements if attributes.get("id")}
    ways = [link["href"] for link in page.of("a") if link["href"].startswith("#")]
    assert {f"#points-{PANEL}", "#fig12-made", "#fig2-picture"} <= set(ways)
    assert {way.removeprefix("#") for way in ways} <= targets
    assert f"bench figure {PANEL} --backend sim" in page.words
    spec = registry.find(PANEL).figures[0].points()[0]
    folder = f"../{store.directory(spec).relative_to(store.root).as_posix()}/"
    assert folder in [link["href"] for link in page.of("a")]
    assert (store.root / "report" / folder).resolve().is_dir()


def test_the_first_screen_says_how_good_the_simulation_is(store):
    report = replace(build_report(store, Choice()), validations=())
    assert "not held against a machine here" in Page(to_html(report, {})).words
    aim = {"metric": "mean_ttft_s", "above": False, "limit": 0.1, "within": 9, "points": 12,
           "median": 0.03, "worst": 0.2, "steady": 0.04, "noise": 0.02}  # fmt: skip
    record = {"model": "m", "device": "d", "dtype": "float32", "points": [], "sustained": [],
              "wrong_orders": [], "aims": [aim, aim]}  # fmt: skip
    page = Page(to_html(replace(report, validations=(Found("m", record, b""),)), {}))
    told = "18 of 24 predictions as close as aimed for, m in float32 on d"
    assert told in page.words
    assert "#simulation" in [link["href"] for link in page.of("a")]
