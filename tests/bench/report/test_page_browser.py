"""The report's page in a real browser: it fits, asks for nothing, and is quiet in both schemes."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from browser import Tab, browser, find_browser
from capacity_fakes import fill, put

from bench.claims.measures import Measurement
from bench.claims.verdicts import judge
from bench.experiments import registry
from bench.experiments.capacity import Estimate
from bench.experiments.tables import Choice
from bench.report.build import build_report
from bench.report.pictures import Drawing, draw_all
from bench.report.render import to_html
from bench.report.write import write_report
from bench.results.store import Store
from plot.draw import draw

BROWSER = find_browser()
REQUIRED = os.environ.get("BENCH_TEST_BROWSER") == "required"
AXE = os.environ.get("BENCH_TEST_AXE", "")  # axe.min.js of the package axe-core, from npm
pytestmark = pytest.mark.skipif(
    BROWSER is None and not REQUIRED,
    reason="no Chromium on the PATH: apt install chromium runs these tests",
)
WIDTHS = (320, 360, 400, 800, 1600)
# Elements that reach beyond the page and do not scroll in a box of their own.
TOO_WIDE = """
[...document.querySelectorAll('body *')].filter(e => {
  const box = e.getBoundingClientRect();
  return box.width && !e.closest('.scroll, .hidden, .skip')
    && (box.right > document.documentElement.clientWidth + 1 || box.left < -1);
}).map(e => e.tagName + '.' + e.getAttribute('class')).slice(0, 5)
"""
# Tables that have to be scrolled sideways.
CUT_OFF = """
[...document.querySelectorAll('.scroll')]
  .filter(e => e.scrollWidth > e.clientWidth + 1)
  .map(e => `${e.scrollWidth} in ${e.clientWidth}`)
"""
# What axe-core finds, all its rules: each rule broken, with the first element that breaks it.
FINDINGS = """
axe.run(document, {resultTypes: ['violations']}).then(found => found.violations.map(
  rule => `${rule.impact}: ${rule.id}: ${rule.nodes[0].html.slice(0, 80)}`))
"""
# The worst contrast of any text against the nearest background behind it (WCAG 2).
CONTRASTS = """
(() => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const light = c => c.slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const c = rgb(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let worst = [99, ''];
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    if (!node.data.trim() || node.parentElement.closest('.hidden, .skip')) continue;
    const [a, b] = [getComputedStyle(node.parentElement).color, behind(node.parentElement)];
    const [x, y] = [light(rgb(a)), light(b)].sort((p, q) => q - p);
    const ratio = (x + 0.05) / (y + 0.05);
    if (ratio < worst[0]) worst = [ratio, node.data.trim().slice(0, 40)];
  }
  return worst;
})()
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with figures, failures and gaps, and capacities over seeds."""
    root = tmp_path_factory.mktemp("shown")
    store = Store(root, source="present")
    for name in ("fig2", "fig12-13b-sharegpt"):
        for spec in registry.find(name).figures[0].points()[:-1]:
            put(store, spec)
    report = build_report(store, Choice())
    over_seeds = {"interval": (1.234, 1.456), "seeds": 10, "paper": "at least 1.75"}
    capacities = tuple(replace(row, **over_seeds) for row in report.capacities)
    report = replace(report, capacities=capacities)
    return write_report(report, root / "report", draw_all(store, Choice()))[0]


@pytest.fixture(scope="module")
def tab() -> Tab:
    assert BROWSER is not None, "BENCH_TEST_BROWSER says that a browser must be there"
    with browser(BROWSER) as found:
        yield found


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_page_fits_any_width_in_both_schemes(tab: Tab, page: Path, width: int, dark: bool) -> None:
    tab.open(page, width=width, dark=dark)
    inner, outer = tab.evaluate(
        "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert (inner, outer) == (width, width)
    assert tab.evaluate(TOO_WIDE) == []
    assert tab.evaluate(CUT_OFF) == []


@pytest.mark.parametrize("width", [840, 1200, 1280, 1400])
def test_claims_with_intervals_are_not_cut_off_beside_their_picture(
    tab: Tab, tmp_path: Path, width: int
) -> None:
    store = Store(tmp_path, source="present")
    fill(store, "fig17")
    over_seeds = Measurement(
        Estimate(1.42),
        num_points=4,
        devices=("1x a100-40gb",),
        seeds=(0, 1, 2),
        interval=(1.21, 1.68),
        method="searched",
    )
    claims = registry.FIGURES["fig17"].claims
    rows = [judge("fig17", claim, over_seeds, backend="sim") for claim in claims]
    verdicts = pd.DataFrame(rows, dtype=object)
    report = replace(build_report(store, Choice()), verdicts=verdicts)
    picture = next(p for p in draw("fig17", store, tmp_path / "figures") if p.suffix == ".png")
    page = tmp_path / "index.html"
    page.write_text(to_html(report, {"fig17": Drawing(picture.read_bytes())}), encoding="utf-8")
    tab.open(page, width=width, dark=False)
    assert tab.evaluate("document.querySelectorAll('.verdicts').length") == 1
    assert tab.evaluate(CUT_OFF) == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_text_is_readable(tab: Tab, page: Path, dark: bool) -> None:
    tab.open(page, width=1200, dark=dark)
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") is not dark
    ratio, text = tab.evaluate(CONTRASTS)
    assert ratio >= 4.5, f"'{text}' has a contrast of {ratio:.2f}"


@pytest.mark.skipif(not AXE, reason="no axe-core: npm pack it, BENCH_TEST_AXE=.../axe.min.js")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_an_accessibility_checker_finds_nothing(
    tab: Tab, page: Path, width: int, dark: bool
) -> None:
    tab.open(page, width=width, dark=dark)
    tab.evaluate(f"{Path(AXE).read_text(encoding='utf-8')}; 0")
    assert tab.evaluate(FINDINGS) == []


@pytest.mark.skipif(not AXE, reason="no axe-core: npm pack it, BENCH_TEST_AXE=.../axe.min.js")
def test_the_accessibility_checker_finds_what_is_wrong(tab: Tab, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text("<body><img src='data:,'><a href='#'></a>", encoding="utf-8")
    tab.open(bad, width=400, dark=False)
    tab.evaluate(f"{Path(AXE).read_text(encoding='utf-8')}; 0")
    rules = {line.split(": ")[1] for line in tab.evaluate(FINDINGS)}
    assert {"image-alt", "link-name", "document-title", "html-has-lang"} <= rules


def test_page_prints_on_paper_with_everything_on_it(tab: Tab, page: Path) -> None:
    """The width of A4's text: what is cut off there is lost."""
    tab.open(page, width=718, dark=False)
    tab.call("Emulation.setEmulatedMedia", media="print")
    try:
        assert tab.evaluate(TOO_WIDE) == []
        assert tab.evaluate(CUT_OFF) == []
    finally:
        tab.call("Emulation.setEmulatedMedia", media="")


def test_page_asks_for_nothing_and_says_nothing(tab: Tab, page: Path) -> None:
    tab.requests.clear()
    tab.complaints.clear()
    tab.open(page, width=1200, dark=False)
    others = [url for url in tab.requests if not url.startswith("data:")]
    assert others == [page.resolve().as_uri()]
    assert tab.complaints == []
    assert tab.evaluate("document.scripts.length") == 0


def test_every_picture_is_shown_and_every_link_leads_somewhere(tab: Tab, page: Path) -> None:
    tab.open(page, width=1200, dark=False)
    shown = tab.evaluate("[...document.images].map(image => image.naturalWidth > 0)")
    assert shown
    assert all(shown)
    dead = tab.evaluate(
        "[...document.querySelectorAll('a[href^=\"#\"]')].map(a => a.getAttribute('href'))"
        ".filter(href => !document.getElementById(href.slice(1)))"
    )
    assert dead == []


def test_the_probes_find_what_they_look_for(tab: Tab, tmp_path: Path) -> None:
    """Without this, a probe that never finds anything would pass for a sound page."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<body><div style='width:3000px'>wide</div><p style='color:#bbb'>pale</p>"
        "<script>console.error('oh')</script><img src='http://127.0.0.1:9/none.png'>",
        encoding="utf-8",
    )
    tab.requests.clear()
    tab.complaints.clear()
    tab.open(bad, width=400, dark=False)
    assert tab.evaluate(TOO_WIDE) == ["DIV.null"]
    ratio, text = tab.evaluate(CONTRASTS)
    assert (ratio < 4.5, text) == (True, "pale")
    assert any(url.startswith("http:") for url in tab.requests)
    assert any(
        "oh" in json.loads(line).get("args", [{}])[0].get("value", "")
        for line in tab.complaints
        if line.startswith("{")
    )
