"""Text of results, which may hold anything, is shown as it is and obeyed by nobody."""

from __future__ import annotations

from pathlib import Path

import capacity_fakes
import pytest
from made_up_kernels import measured

from bench.commands.report import print_report
from bench.experiments.tables import Choice
from bench.report.build import build_report
from bench.report.pictures import Drawing
from bench.report.render import markdown, to_html, to_markdown
from bench.results.measurements import measured_directory, write_measurement
from bench.results.store import Snapshot, Store
from plot.draw import draw

NASTY = (
    "$x_{$",
    "\x1b]0;title\x07\x1b[31mred\x9b",
    "<script>alert(1)</script>|**b**`c`[d](e) _f_",
    "[red]r[/] [/]",
    "\u202edesrever\n# heading\n",
    "\\frac{1}{2} %s {0} {{ x }} {% y %}",
    "n" * 5000,
)


@pytest.mark.parametrize("device", NASTY)
def test_nobody_obeys_a_name_in_results(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    device: str,
) -> None:
    monkeypatch.setattr(capacity_fakes, "DEVICE", device)
    store = Store(tmp_path, source="present")
    capacity_fakes.fill(store, "fig2")
    write_measurement(
        measured_directory(tmp_path, "attention", "cpu"), measured(0.9) | {"device": device}
    )
    report = build_report(Snapshot(tmp_path, source="present"), Choice())
    print_report(report)
    page = to_html(report, {"fig2": Drawing(problem=device)})
    text = to_markdown(report)
    for output in (capsys.readouterr().out, page, text):
        assert all(sign.isprintable() for sign in output if sign != "\n")
    assert "<script>" not in page
    assert "<script>" not in text
    assert "\n# heading" not in text
    for name in ("fig2", "fig18-a"):
        assert all(path.stat().st_size < 1 << 20 for path in draw(name, store, tmp_path / "f"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Linux 6.1 x86_64; numpy 2.4", "Linux 6.1 x86_64; numpy 2.4"),
        ("_a_ *b* `c`", r"\_a\_ \*b\* \`c\`"),
        ("<b> a|b [x](y) $z$", r"\<b\> a\|b \[x\](y) \$z\$"),
        ("a\nb\x1b", r"a\\nb\\x1b"),
    ],
)
def test_markdown_shows_foreign_text_as_it_is(text: str, shown: str) -> None:
    assert markdown(text) == shown
