"""`bench validate` on a tiny model: it measures, serves, simulates; again, it goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import passed, refused
from small_devices import write_measured_profile, write_profile

from engines.sim.profile import load_profile

PLACE = Path("validation") / "cpu-opt-125m-float32"


VALIDATE = ("validate", "--device", "cpu")


@pytest.mark.usefixtures("small_device", "one_thread")
def test_a_validation_is_written_drawn_and_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.validation import cases

    monkeypatch.setattr(cases, "SHORTEST_S", 0.2)
    profile = write_measured_profile(tmp_path / "steps.toml")
    words = (*VALIDATE, "--short", "--budget", "0.1", "--artifacts", str(tmp_path), "-q",
             "--device-profile", str(profile))  # fmt: skip
    first = passed(*words)
    root = tmp_path / PLACE
    found = json.loads((root / "validation.json").read_bytes())
    assert {point["system"] for point in found["points"]} == {"astra", "orca-oracle"}
    assert [point["load"] for point in found["points"]] == [0.6, 0.9] * 2
    for point in found["points"]:
        assert point["steps"]["all"]["steps"] == point["measured"]["steps"]
        assert point["errors"]["step_median"] >= 0
    assert {"step_median", "mean_tpot_s"} <= {aim["metric"] for aim in found["aims"]}
    assert found["noise"]["mean_tpot_s"] > 0, "no two runs are equal"
    assert load_profile(str(root / "profile.toml")).sha256 == found["profile"]["sha256"]
    assert (root / "validation.png").read_bytes().startswith(b"\x89PNG")
    assert "order of the systems" in first.output
    files = {path: path.read_bytes() for path in root.rglob("*.parquet")}
    again = passed(*words, "--json")
    assert json.loads(again.stdout)["points"] == found["points"]
    assert {path: path.read_bytes() for path in root.rglob("*.parquet")} == files


@pytest.mark.usefixtures("small_device")
def test_bad_input_is_one_line_before_anything_is_measured(tmp_path: Path) -> None:
    place = ("--artifacts", str(tmp_path))
    short = refused(*VALIDATE, "--budget", "1", *place)
    assert "raise --budget to" in short
    assert "or give --short" in short
    formula = write_profile(tmp_path / "formula.toml", step_overhead_s=0.01)
    without = refused(*VALIDATE, "--device-profile", formula, *place)
    assert "holds no measured steps" in without
    assert list(tmp_path.iterdir()) == [formula]
