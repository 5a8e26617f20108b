"""Reference results: exact tables, honest comparison, and the committed ones made again."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from capacity_fakes import fill
from click.testing import CliRunner
from partial_fakes import PartialStore
from places import ROOT

from bench.claims import verdicts
from bench.claims.comparison import (
    TOLERANCE,
    Comparison,
    compare,
    compare_claims,
    differences,
    known_specs,
)
from bench.claims.counts import headline
from bench.claims.evidence import Evidence
from bench.claims.reference import (
    CAPACITIES,
    CLAIMS,
    KEYS,
    METRICS,
    POINTS,
    csv_bytes,
    find_reference,
    read_claims,
    read_points,
    reference_files,
    reference_verdicts,
)
from bench.commands.reference import command
from bench.experiments import registry
from bench.experiments.effort import Effort
from bench.experiments.tables import Choice
from bench.point.serve import run_point
from bench.point.spec import PointSpec
from bench.report.build import build_report
from bench.report.write import write_report
from bench.results.store import Store, flatten, name_of
from engines.core.errors import UserError

PANEL = "fig12-13b-sharegpt"
COMMITTED = ROOT / "artifacts" / "reference" / "sim"
MOST_SEQUENCES = 1500.0  # of a committed point that is cheap enough to be made again
SAMPLE = 6
RENEW = "the sources give other results: look why, then 'make reference'"
committed = pytest.mark.skipif(
    not (COMMITTED / POINTS).exists(), reason="no reference results committed"
)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "results", source="present")


@pytest.fixture
def reference(store, tmp_path) -> Path:
    """Reference results of one panel, which the store holds."""
    fill(store, PANEL)
    return write_reference(store, tmp_path / "reference")


def write_reference(store: Store, directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    for name, content in reference_files(store, Choice()).items():
        (directory / name).write_bytes(content)
    return directory


def rows_of(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode())))


def counts(found: Comparison) -> dict[str, int]:
    return {
        name: found.total(name) for name in ("reference", "compared", "equal", "close", "other")
    }


def test_tables_hold_every_point_claim_and_curve(store, reference):
    rows = {name: rows_of((reference / name).read_bytes()) for name in (POINTS, CLAIMS, CAPACITIES)}
    points = registry.find(PANEL).figures[0].points()
    assert {row["digest"] for row in rows[POINTS]} == {spec.digest for spec in points}
    assert len(rows[CLAIMS]) == len(verdicts.table(Evidence(store, Choice())))
    assert {row["system"] for row in rows[CAPACITIES]} >= {"astra", "ft"}


def test_kernels_measured_beside_are_no_part_of_the_reference(store, monkeypatch):
    fill(store, PANEL)
    ratios = [{"paged_over_contiguous": 1.1, "batch_size": 8, "context_len": 64}]
    measured = {"backend": "cpu", "device": "CPU, made up", "ratios": ratios}
    monkeypatch.setattr(Store, "kernels", lambda *_, **__: measured)
    beside = verdicts.table(Evidence(store, Choice()))
    assert "measured" in set(beside["basis"])
    rows = rows_of(reference_files(store, Choice())[CLAIMS])
    assert len(rows) == len(reference_verdicts(Evidence(store, Choice()))) == len(beside) - 1


def test_numbers_are_read_back_exactly(tmp_path):
    values = [0.1 + 0.2, 1 / 3, 1e-17, 123456789.123456789]
    rows = [
        {**dict.fromkeys(KEYS, "1"), "digest": str(i), **dict.fromkeys(METRICS, v)}
        for i, v in enumerate(values)
    ]
    (tmp_path / POINTS).write_bytes(csv_bytes(rows))
    assert [row["mean_ttft_s"] for row in read_points(tmp_path).values()] == values


def test_results_are_equal_close_or_named(store, reference):
    num = len(registry.find(PANEL).figures[0].points())
    same = compare(store, reference, Choice())
    assert counts(same) == dict.fromkeys(("reference", "compared", "equal"), num) | {
        "close": 0,
        "other": 0,
    }
    assert (same.lines, same.num_unknown, list(same.panels["worst"])) == ((), 0, [""])
    fill(store, PANEL, factor=1.001)  # as another machine might round
    near = compare(store, reference, Choice())
    assert counts(near)["close"] == num
    assert near.lines == ()
    assert "within 1 %" in near.text
    assert "mean_normalized_latency_s 0.001" in near.panels["worst"][0]
    strict = compare(store, reference, Choice(), tolerance=0.0)
    assert len(strict.lines) == strict.total("other") == num
    fill(store, PANEL, factor=1.5)
    other = compare(store, reference, Choice())
    assert len(other.lines) == other.total("other") == num
    assert "mean_normalized_latency_s" in other.lines[0]
    assert other.text.startswith(f"0 of {num} points run equal the reference")


def test_without_results_nothing_is_compared(reference, tmp_path):
    none = compare(Store(tmp_path / "empty", source="present"), reference, Choice())
    assert none.text == f"none of the {none.total('reference')} reference points has been run"
    assert none.lines == ()


def test_claims_are_compared_by_number_and_verdict(store, reference):
    found = verdicts.table(Evidence(store, Choice()))

    def slots() -> pd.Series:
        rows = compare_claims(found, reference)
        (row,) = [row for _, row in rows.iterrows() if row["claim"].endswith("rule, opt-13b")]
        return row

    same = slots()
    assert same["paper"] == "15700 tokens"
    assert (same["ours"], same["difference"]) == (same["reference"], 0)
    assert (same["verdict_there"], same["verdict"]) == ("pass", "pass")
    path = reference / CLAIMS
    path.write_text(path.read_text().replace(f",{same['reference']:.0f},", ",31944,"))
    assert slots()["difference"] == pytest.approx(same["ours"] / 31944 - 1)


def test_the_usual_reference_is_for_simulated_results_of_the_registry(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = ("artifacts/reference/sim", "artifacts/reference/sim/quick")
    for place in places:
        Path(place).mkdir(parents=True, exist_ok=True)
        Path(place, POINTS).touch()
    assert find_reference(None, Choice()) == Path(places[0])
    assert find_reference(None, Choice.of(effort=Effort.QUICK)) == Path(places[1])
    assert find_reference(None, Choice.of(effort=Effort.SHORT)) is None
    assert find_reference(None, Choice.of(backend="cpu")) is None
    assert find_reference(None, Choice.of(overrides={"seed": 1})) is None
    assert find_reference(Path("there"), Choice.of(backend="cpu")) == Path("there")


def test_rounding_is_no_difference_and_a_missing_metric_is_one():
    def found(reference: dict, ours: dict) -> dict[str, float]:
        row = differences(pd.DataFrame([reference]), pd.DataFrame([ours])).iloc[0]
        return row[row > 0].to_dict()

    reference = dict.fromkeys(METRICS, 2.0)
    assert found(reference, dict.fromkeys(METRICS, 2.0 * (1 + 1e-12))) == {}
    assert found(reference, {**reference, "mean_ttft_s": np.nan}) == {"mean_ttft_s": np.inf}
    assert found({**reference, "steps": np.nan}, {**reference, "steps": np.nan}) == {}
    assert found(dict.fromkeys(METRICS, 0.0), {**dict.fromkeys(METRICS, 0.0), "steps": 3}) == {
        "steps": 3.0
    }


def test_report_shows_the_comparison(store, reference, tmp_path):
    report = build_report(store, Choice(), reference=reference)
    page, markdown, values = write_report(report, tmp_path / "report", {})
    count = len(registry.find(PANEL).figures[0].points())
    said = f"{count} of {count} points run equal the reference"
    assert said in page.read_text(encoding="utf-8")
    assert said in markdown.read_text(encoding="utf-8")
    assert json.loads(values.read_text(encoding="utf-8"))["reference"]["num_equal"] == count


def test_command_compares_and_fails_where_points_differ(tmp_path):
    words = ["--artifacts", str(tmp_path / "a"), "--reference", str(tmp_path / "reference")]
    unknown = CliRunner().invoke(command, words)
    assert isinstance(unknown.exception, UserError)
    store = Store(tmp_path / "a")
    fill(store, PANEL)
    write_reference(store, tmp_path / "reference")
    same = CliRunner().invoke(command, words)
    assert (same.exit_code, same.exception) == (0, None)
    fill(store, PANEL, factor=1.5)
    other = CliRunner().invoke(command, words)
    assert other.exit_code == 1
    assert "mean_normalized_latency_s" in other.output
    allowed = CliRunner().invoke(command, [*words, "--tolerance", "0.6"])
    assert allowed.exit_code == 0, allowed.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--renew", "--backend", "cpu"), "the reference is simulated"),
        (("--renew", "--ray", "nowhere"), "--ray takes HOST:PORT of a cluster"),
        (("--ray", "local"), "--ray says how to run points: it goes with --renew"),
        (("--jobs", "2"), "--jobs says how to run points: it goes with --renew"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path, words, message):
    places = ["--artifacts", str(tmp_path), "--reference", str(tmp_path / "reference"), "--quick"]
    refused = CliRunner().invoke(command, [*places, *words])
    assert isinstance(refused.exception, UserError)
    assert message in str(refused.exception)
    assert not list(tmp_path.iterdir())


def test_missing_or_damaged_reference_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="no reference results"):
        read_points(tmp_path)
    (tmp_path / POINTS).write_text("digest,steps\n1,2\n")
    with pytest.raises(UserError, match="lack columns"):
        read_points(tmp_path)
    columns = "figure,claim,ours,unit,status,doubt,basis"
    (tmp_path / CLAIMS).write_text(f"{columns}\nfig2,a,1,%,pass,,predicted\n")
    with pytest.raises(UserError, match="lack columns: limit"):
        read_claims(tmp_path)
    (tmp_path / CLAIMS).write_text(f"{columns},limit\nfig2,a,many,%,pass,,predicted,\n")
    with pytest.raises(UserError, match="bad number"):
        read_claims(tmp_path)


def sequences(spec: PointSpec) -> float:
    return spec.rate * spec.duration * spec.sampling.n


def sample_of(directory: Path, choice: Choice) -> list:
    """A few of the committed points that are cheap to make again, from all over the registry."""
    reference = read_points(directory)
    specs = known_specs(reference.values(), choice)
    assert set(reference) <= set(specs), f"{directory} has points that no figure has: {RENEW}"
    cheap = [spec for digest, spec in specs.items() if digest in reference]
    cheap = sorted((spec for spec in cheap if sequences(spec) <= MOST_SEQUENCES), key=name_of)
    return [(reference[spec.digest], spec) for spec in cheap[:: max(1, len(cheap) // SAMPLE)]]


@committed
@pytest.mark.parametrize("effort", [Effort.QUICK, Effort.FULL])
def test_committed_points_are_made_again(effort):
    sample = sample_of(COMMITTED / Choice.of(effort=effort).folder, Choice.of(effort=effort))
    assert len(sample) >= SAMPLE
    for expected, spec in sample:
        ours = pd.DataFrame([dict(flatten(run_point(spec).metrics))]).reindex(columns=METRICS)
        found = differences(pd.DataFrame([expected]), ours).iloc[0]
        assert found[found > TOLERANCE].to_dict() == {}, f"{spec.slug}: {RENEW}"


@committed
def test_committed_reference_is_whole_and_small():
    files = [path for path in COMMITTED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 3_000_000
    figures = registry.FIGURES.values()
    runnable = [figure for figure in figures if not figure.is_measured("sim")]
    for effort in (Effort.QUICK, Effort.FULL):
        rows = read_claims(COMMITTED / Choice.of(effort=effort).folder)
        page = (COMMITTED / Choice.of(effort=effort).folder / "README.md").read_text(
            encoding="utf-8"
        )
        assert f"\n{headline(rows)}.\n" in page, RENEW
    drawn = {path.stem for path in (COMMITTED / "figures").glob("*.png")}
    assert drawn == {figure.name for figure in runnable if figure.plot}, RENEW


@committed
@pytest.mark.parametrize("effort", [Effort.QUICK, Effort.FULL])
def test_committed_claims_and_capacities_follow_from_the_committed_points(effort):
    """Every number, of curves and of searches, and every verdict, to the last bit."""
    directory, choice = COMMITTED / Choice.of(effort=effort).folder, Choice.of(effort=effort)
    points = dict(_committed_points(directory, choice))
    store = PartialStore(frozenset(points), lambda spec: {m: points[spec][m] for m in METRICS})
    files = reference_files(store, choice)
    for name, apart in (
        (CLAIMS, {"device"}),
        (CAPACITIES, set()),
    ):
        ours, there = rows_of(files[name]), rows_of((directory / name).read_bytes())
        kept = [[{k: row[k] for k in row if k not in apart} for row in t] for t in (ours, there)]
        assert kept[0] == kept[1], RENEW


def _committed_points(directory: Path, choice: Choice):
    reference = read_points(directory)
    specs = known_specs(reference.values(), choice)
    assert set(reference) == set(specs), RENEW
    return ((specs[digest], row) for digest, row in reference.items())
