"""The report: what it counts, names and writes, from made-up results in a real store."""

import io
import json

import numpy as np
import pytest
from capacity_fakes import CAPACITY, fill

from bench.claims.verdicts import Status
from bench.commands.report import print_report
from bench.experiments import registry
from bench.experiments.tables import Choice
from bench.report.build import build_report
from bench.report.pictures import shrink
from bench.report.render import to_reference_readme
from bench.report.write import write_report
from bench.results.store import Store
from engines.core.errors import UserError

SHAREGPT = "fig12-13b-sharegpt"


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path, source="present")


def test_only_sound_results_count_and_the_others_are_named(store, tmp_path):
    fill(store, "fig2")
    spoilt = registry.find("fig2").figures[0].points()[0]
    path = store.directory(spoilt) / "requests.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    report = build_report(store, Choice())
    assert report.summary.num_points == 3
    assert any("orca-max at 4 req/s is corrupt" in line for line in report.problems)
    rows = report.verdicts
    of_orca = rows["path"].str.startswith("fig2:orca-max")
    assert set(rows.loc[of_orca, "status"]) == {Status.NOT_RUN}
    _, markdown, _ = write_report(report, tmp_path / "report", {})
    assert "is corrupt" in markdown.read_text()


def test_empty_store_has_no_problems(store):
    report = build_report(store, Choice())
    assert (report.problems, report.summary.num_points, report.capacities) == ((), 0, ())


def test_stale_results_are_marked(store, tmp_path):
    fill(store, "fig2")
    report = build_report(Store(tmp_path, source="later"), Choice())
    assert report.verdicts.loc[report.verdicts["figure"] == "fig2", "stale"].all()
    assert sum("is stale" in line for line in report.problems) == 4


def test_files_are_a_function_of_the_results(store, tmp_path):
    fill(store, "fig2", SHAREGPT)
    first, second = (
        write_report(build_report(store, Choice()), tmp_path / name, {}) for name in ("a", "b")
    )
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_json_holds_every_verdict_and_capacity(store, tmp_path):
    fill(store, SHAREGPT)
    report = build_report(store, Choice())
    write_report(report, tmp_path, {})
    values = json.loads((tmp_path / "report.json").read_text())
    assert len(values["claims"]) == len(report.verdicts)
    capacities = {row["system"]: row["capacity_req_s"] for row in values["capacities"]}
    for system, truth in CAPACITY.items():
        assert capacities[system]["value"] == pytest.approx(truth, rel=0.05)
        assert capacities[system]["bound"] == "exact"


def test_terminal_names_what_fails(store, capsys):
    fill(store, "fig2")
    print_report(build_report(store, Choice()))
    text = capsys.readouterr().out
    assert "0 of 2 predicted claims hold" in text
    assert "fails" in text


def test_the_references_page_lists_every_claim(store):
    fill(store, "fig2")
    report = build_report(store, Choice())
    page = to_reference_readme(report)
    assert f"{report.headline}." in page
    assert all(f"| {claim} |" in page for claim in report.verdicts["claim"])


def test_unwritable_place_is_one_clear_line(store, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_report(build_report(store, Choice()), tmp_path / "file" / "report", {})


def test_small_pictures_are_small():
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 255, (60, 200, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(noise).save(content, format="PNG")
    small = shrink(content.getvalue(), width=100)
    with Image.open(io.BytesIO(small)) as image:
        assert image.size == (100, 30)
    assert len(small) < len(content.getvalue())
