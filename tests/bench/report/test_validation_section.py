"""The report shows how good the simulation is, from the validation that is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.experiments.tables import Choice
from bench.records import seal
from bench.report.build import build_report
from bench.report.render import to_html, to_markdown
from bench.results.store import Store
from bench.validation.compare import judge, step_noise
from bench.validation.record import FILE
from engines.core.errors import UserError

POINTS = [
    {
        "load": load,
        "errors": {"mean_tpot_s": error, "step_median": 0.01},
        "steady_errors": {"mean_tpot_s": -2 * error},
    }
    for load, error in ((0.3, 0.02), (0.9, -0.08), (1.15, 0.2))
]
ROW = {"system": "astra", "bounds": ["", ""], "measured": 6.5, "predicted": 6.25, "error": -0.038}


def write_validation(artifacts: Path, **changes: Any) -> Path:
    record = {
        "format": 2,
        "model": "opt-<125m>",
        "backend": "cpu",
        "device": "a CPU",
        "dtype": "float32",
        "short": False,
        "profile": {"name": "here"},
        "noise": {"mean_tpot_s": 0.015},
        "points": POINTS,
        "sustained": [ROW],
        "wrong_orders": [],
        "aims": judge(POINTS, {"mean_tpot_s": 0.015}),
        "provenance": {},
        **changes,
    }
    root = artifacts / "validation" / "cpu-x"
    root.mkdir(parents=True)
    (root / FILE).write_bytes(seal(record))
    return root


def test_aims_errors_and_the_machines_noise_are_shown(tmp_path: Path) -> None:
    write_validation(tmp_path)
    report = build_report(Store(tmp_path), Choice())
    markdown, html = to_markdown(report), to_html(report, {})
    name = "| mean time per output token |"
    assert f"{name} to 90 % | 5.0 % | 1 of 2 | 8.0 % | 8.0 % | 16.0 % | 1.5 % |" in markdown
    assert f"{name} above | 10.0 % | 0 of 1 | 20.0 % | 20.0 % | 40.0 % | 1.5 % |" in markdown
    assert "Sustained rates: astra 6.5 req/s, predicted 6.25." in markdown
    assert "order" not in markdown[markdown.index("How good") : markdown.index("What the workl")]
    assert 'id="simulation"' in html
    assert "opt-&lt;125m&gt; in float32" in html
    assert "<125m>" not in html


def test_a_damaged_validation_is_no_result(tmp_path: Path) -> None:
    path = write_validation(tmp_path) / FILE
    path.write_bytes(path.read_bytes().replace(b"0.02", b"0.01"))
    with pytest.raises(UserError, match="does not match its checksum: remove it"):
        build_report(Store(tmp_path), Choice())


def test_the_noise_of_steps_is_that_of_like_ones() -> None:
    """Neither a larger batch nor a prompt is noise; a slow step among equal ones is."""
    seconds = [1.0] * 9 + [5.0] * 9 + [1.0, 1.0, 1.0, 1.0, 1.25, 1.0, 1.0, 1.0, 1.0, 1.0]
    decodes = [1] * 9 + [8] * 9 + [2] * 10
    steps = pd.DataFrame({"seconds": seconds, "decodes": decodes})
    steps = steps.assign(prompts=0, blocks_in=0, blocks_out=0, copied_blocks=0,
                         beam_groups=0)  # fmt: skip
    steps.loc[27, ["seconds", "prompts"]] = 9.0, 1
    assert list(step_noise(steps)) == []
    longer = pd.concat([steps[18:27], steps[18:27]], ignore_index=True)
    noise = step_noise(longer)
    assert set(noise.round(9)) == {0.0, 0.2}
    assert len(noise) == len(longer) - 9, "from the fifth of the alike to the fifth from the end"
