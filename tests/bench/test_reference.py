"""Reference results: exact tables, honest comparison, and the committed ones made again."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from capacity_fakes import serve
from click.testing import CliRunner

from bench.commands.reference import command
from bench.experiments import registry
from bench.experiments.tables import Choice
from bench.plan import weight
from bench.reference import (
    CAPACITIES,
    CLAIMS,
    KEYS,
    METRICS,
    POINTS,
    compare,
    comparison_text,
    csv_bytes,
    differences,
    read_points,
    reference_files,
    registered_specs,
)
from bench.report import build_report, write_report
from bench.results import Store, _flatten
from bench.run import run_point
from engines.core.errors import UserError

PANEL = "fig12-13b-sharegpt"
COMMITTED = Path(__file__).parents[2] / "artifacts" / "reference" / "sim"
MOST_REQUESTS = 1500.0  # of a committed point that is cheap enough to be made again
SAMPLE = 6


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "results", source="present")


def fill(store: Store, factor: float = 1.0) -> None:
    for spec in registry.find(PANEL).points():
        outcome = serve(spec)
        latency = outcome.metrics["mean_normalized_latency_s"] * factor
        changed = replace(
            outcome, metrics={**outcome.metrics, "mean_normalized_latency_s": latency}
        )
        store.write(spec, changed, provenance={"source_sha256": store.source})


def write_reference(store: Store, directory: Path) -> dict[str, bytes]:
    files = reference_files(store, build_report(store, Choice()), {})
    for name, content in files.items():
        directory.mkdir(exist_ok=True)
        (directory / name).write_bytes(content)
    return files


def test_tables_hold_every_point_claim_and_curve(store, tmp_path):
    fill(store)
    files = write_reference(store, tmp_path / "reference")
    rows = {name: list(csv.DictReader(io.StringIO(files[name].decode()))) for name in files}
    assert {row["digest"] for row in rows[POINTS]} == {
        spec.digest for spec in registry.find(PANEL).points()
    }
    report = build_report(store, Choice())
    assert len(rows[CLAIMS]) == len(report.verdicts)
    assert {row["system"] for row in rows[CAPACITIES]} >= {"astra", "ft"}


def test_numbers_are_read_back_exactly(tmp_path):
    values = [0.1 + 0.2, 1 / 3, 1e-17, 123456789.123456789]
    rows = [
        {**dict.fromkeys(KEYS, "1"), "digest": str(i), **dict.fromkeys(METRICS, v)}
        for i, v in enumerate(values)
    ]
    (tmp_path / POINTS).write_bytes(csv_bytes(rows))
    assert [row["mean_ttft_s"] for row in read_points(tmp_path).values()] == values


def test_equal_results_are_equal(store, tmp_path):
    fill(store)
    write_reference(store, tmp_path / "reference")
    found = compare(store, tmp_path / "reference", Choice())
    assert found.num_equal == found.num_compared == found.num_reference > 0
    assert (found.lines, found.num_unknown) == ((), 0)


def test_differing_results_are_named(store, tmp_path):
    fill(store)
    write_reference(store, tmp_path / "reference")
    fill(store, factor=1 + 1e-8)
    found = compare(store, tmp_path / "reference", Choice())
    assert found.num_equal == 0
    assert len(found.lines) == found.num_compared
    assert "mean_normalized_latency_s" in found.lines[0]
    assert "0 of" in comparison_text(found)


def test_rounding_is_no_difference_and_a_missing_metric_is_one():
    reference = dict.fromkeys(METRICS, 2.0)
    assert differences(reference, dict.fromkeys(METRICS, 2.0 * (1 + 1e-12))) == {}
    assert differences(reference, {**reference, "mean_ttft_s": np.nan}) == {"mean_ttft_s": np.inf}
    assert differences({**reference, "steps": np.nan}, {**reference, "steps": np.nan}) == {}


def test_report_shows_the_comparison(store, tmp_path):
    fill(store)
    write_reference(store, tmp_path / "reference")
    write_report(store, tmp_path / "report", reference=tmp_path / "reference")
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    count = len(registry.find(PANEL).points())
    said = f"{count} of {count} points run equal the reference"
    assert said in page
    assert said in (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    values = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    assert values["reference"]["num_equal"] == count


def test_command_compares_and_fails_where_points_differ(store, tmp_path):
    words = ["--artifacts", str(store.root), "--reference", str(tmp_path / "reference")]
    unknown = CliRunner().invoke(command, words)
    assert isinstance(unknown.exception, UserError)
    present = Store(store.root)
    fill(present)
    write_reference(present, tmp_path / "reference")
    same = CliRunner().invoke(command, words)
    assert (same.exit_code, same.exception) == (0, None)
    fill(present, factor=1.5)
    other = CliRunner().invoke(command, words)
    assert other.exit_code == 1
    assert "mean_normalized_latency_s" in other.output


def test_missing_or_damaged_reference_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="no reference results"):
        read_points(tmp_path)
    (tmp_path / POINTS).write_text("digest,steps\n1,2\n")
    with pytest.raises(UserError, match="lack columns"):
        read_points(tmp_path)


@pytest.mark.skipif(not (COMMITTED / POINTS).exists(), reason="no reference results committed")
def test_committed_points_are_made_again_exactly():
    """If this fails, the sources give other results: look why, then `bench reference --renew`."""
    reference = read_points(COMMITTED)
    specs = registered_specs(Choice())
    assert set(reference) <= set(specs), "the reference has points that no figure has"
    cheap = sorted(
        (spec for digest, spec in specs.items() if digest in reference),
        key=weight,
    )
    cheap = [spec for spec in cheap if weight(spec) <= MOST_REQUESTS]
    sample = cheap[:: max(1, len(cheap) // SAMPLE)][:SAMPLE]
    assert len(sample) == SAMPLE
    for spec in sample:
        ours = dict(_flatten(run_point(spec).metrics))
        assert differences(reference[spec.digest], ours) == {}, spec.slug


@pytest.mark.skipif(not (COMMITTED / POINTS).exists(), reason="no reference results committed")
def test_committed_reference_is_whole_and_small():
    files = [path for path in COMMITTED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 3_000_000
    with (COMMITTED / CLAIMS).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    figures = [f for f in registry.FIGURES.values() if not f.is_measured("sim")]
    assert len(rows) == sum(len(f.claims) for f in figures) + len(registry.TABLE1_CLAIMS)
    drawn = {path.stem for path in (COMMITTED / "figures").glob("*.png")}
    assert drawn == {f.name for f in figures if f.plot and not f.pending}
