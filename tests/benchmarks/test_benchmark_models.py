"""The benchmark of the models: its job, its arithmetic, and all contestants on a tiny model."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from benchmarks import models as benchmark_models
from benchmarks.contestants import CONTESTANTS, FIRST_TOKEN
from benchmarks.models import Result, main, make_job
from engines.core.errors import UserError

HAS_ALL = all(importlib.util.find_spec(name) for name in benchmark_models._PACKAGES)


def result(**changes: object) -> Result:
    seconds = {"ours": (1.0, 2.0, 1.0), "transformers": (5.0, 8.0, 4.0),
               "ctranslate2-batch32": (1.5, 3.2, 1.4),
               "ctranslate2-batch48": (1.4, 2.8, 1.4),
               "ctranslate2-int8": (0.5, 1.0, 0.5)}  # fmt: skip
    values = {"num_tokens": 300, "seconds": seconds, "step_s": 0.1, "host_s": 0.004, **changes}
    return Result(**values)  # type: ignore[arg-type]


def test_the_job_is_the_same_every_time_and_within_the_limits() -> None:
    job = make_job(benchmark_models.NUM_REQUESTS, 500)
    assert job == make_job(benchmark_models.NUM_REQUESTS, 500)
    assert len(job.prompts) == len(job.output_lens) == 96
    assert all(4 <= len(prompt) <= 256 for prompt in job.prompts)
    assert all(1 <= n <= 128 for n in job.output_lens)
    assert all(FIRST_TOKEN <= token < 500 for prompt in job.prompts for token in prompt)
    assert job.num_tokens == sum(job.output_lens)
    assert len(set(job.output_lens)) > 30


def test_ratios_are_medians_over_rounds() -> None:
    found = result()
    assert found.rate("ours") == 300
    assert found.ratio("transformers") == 4.0
    assert found.ratio("ctranslate2-batch32") == 1.5
    assert found.ratio("ctranslate2-int8") == 0.5
    assert found.host_pct == pytest.approx(4.0)
    assert found.holds


def test_a_missed_target_is_a_missed_target() -> None:
    assert not result(host_s=0.006).holds
    slower = {**result().seconds, "ctranslate2-batch48": (1.2, 2.5, 1.29)}
    assert not result(seconds=slower).holds


def test_what_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark_models, "_PACKAGES", ("no_such_package",))
    assert main(["--quick"]) == 2
    error = capsys.readouterr().err
    assert error == (
        "error: the benchmark needs no_such_package: pip install --editable '.[benchmark]'\n"
    )
    assert main(["--rounds", "1"]) == 2


@pytest.mark.slow
@pytest.mark.skipif(not HAS_ALL, reason="torch, transformers and ctranslate2 needed")
def test_all_contestants_serve_a_tiny_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    status = main(["--quick", "--rounds", "1", "--threads", "1", "--out", str(out)])
    assert status in (0, 1)  # a tiny model's speed means nothing
    record = json.loads(out.read_text())
    assert set(record["seconds"]) == set(CONTESTANTS)
    assert all(len(s) == 1 and s[0] > 0 for s in record["seconds"].values())
    assert record["ratios"]["ours"] == 1.0
    assert 0 < record["host_s"] < record["step_s"]
    assert "outside the model" in capsys.readouterr().out


@pytest.mark.skipif(not HAS_ALL, reason="torch, transformers and ctranslate2 needed")
def test_a_contestant_that_fails_is_one_line(tmp_path: Path) -> None:
    from benchmarks.contestants import Setup, Worker

    setup = Setup(tmp_path / "nowhere", 1, 16, 4)
    with pytest.raises(UserError, match=r"ours: .*nowhere does not exist"):
        Worker("ours", setup)
