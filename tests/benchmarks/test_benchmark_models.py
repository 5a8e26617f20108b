"""The benchmark of the models: its job, its arithmetic, and all contestants on a tiny model."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from benchmarks import environments, outside
from benchmarks import models as benchmark_models
from benchmarks.contestants import CONTESTANTS, FIRST_TOKEN, Job, OpenVINO, Setup, available
from benchmarks.models import Result, choose, main, make_job
from engines.core.errors import UserError

HAS_ALL = all(importlib.util.find_spec(name) for name in benchmark_models._PACKAGES)


def result(**changes: object) -> Result:
    seconds = {"ours": (1.0, 2.0, 1.0), "transformers": (5.0, 8.0, 4.0),
               "ctranslate2-batch32": (1.5, 3.2, 1.4),
               "ctranslate2-batch48": (1.4, 2.8, 1.4),
               "ctranslate2-int8": (0.5, 1.0, 0.5)}  # fmt: skip
    values = {"num_tokens": 300, "seconds": seconds, "step_s": 0.1, "host_s": 0.004,
              "targets": benchmark_models.TARGETS["float32"], **changes}  # fmt: skip
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
    assert not result(seconds={**result().seconds, "openvino": (1.0, 2.1, 1.0)}).holds


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


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """OpenVINO's, made: its interpreter is ours."""
    monkeypatch.setattr(environments, "PLACE", tmp_path)
    assert "openvino" not in available("float32")
    python = tmp_path / "openvino" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    assert "openvino" not in available("float32"), "it may be half made"
    (tmp_path / "openvino" / "complete").touch()
    return tmp_path


def test_an_engine_in_its_own_environment_serves_line_by_line(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert available("float32") == [name for name in CONTESTANTS if name != "vllm"]
    assert available("bfloat16") == ["ours", "transformers", "ctranslate2-int8", "openvino"]
    script = environment / "engine.py"
    script.write_text(
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('outside', {outside.__file__!r})\n"
        "outside = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(outside)\n"
        "class Engine:\n"
        "    def __init__(self, folder, threads, dtype):\n"
        "        assert (threads, dtype) == (3, 'bfloat16')\n"
        "    def serve(self, prompts, output_lens):\n"
        "        assert [len(p) for p in prompts] == output_lens\n"
        "outside.ENGINES['openvino'] = Engine\n"
        "outside.main(*sys.argv[1:])\n"
    )
    monkeypatch.setattr(outside, "__file__", str(script))
    (environment / "model" / "openvino").mkdir(parents=True)
    setup = Setup(environment / "model", 3, 16, 4, "bfloat16")
    contestant = OpenVINO(setup)
    contestant.serve(Job(((1, 2), (3,)), (2, 1)))
    with pytest.raises(UserError, match="its process ended with status 1"):
        contestant.serve(Job(((1, 2),), (1,)))


def test_packages_that_do_not_install_are_one_line(
    environment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(environments.PACKAGES, "openvino", ("/no/such/package",))
    assert environments.main(["openvino"]) == 2
    assert "error: python failed: " in capsys.readouterr().err
    assert "openvino" not in available("float32")


def test_those_to_run_against_can_be_named_if_they_are_here(environment: Path) -> None:
    assert choose("float32", None) == available("float32")
    assert choose("bfloat16", ["openvino"]) == ["ours", "openvino"]
    with pytest.raises(UserError, match="vllm cannot serve bfloat16 here: ours, "):
        choose("bfloat16", ["openvino", "vllm"])


@pytest.mark.slow
@pytest.mark.skipif(not HAS_ALL, reason="torch, transformers and ctranslate2 needed")
@pytest.mark.parametrize("shape", ["opt", "llama"])
def test_all_contestants_serve_a_tiny_model(
    shape: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    status = main(
        ["--quick", "--rounds", "1", "--threads", "1", "--out", str(out), "--shape", shape]
    )
    assert status in (0, 1)  # a tiny model's speed means nothing
    record = json.loads(out.read_text())
    assert set(record["seconds"]) == set(available("float32"))
    assert all(len(s) == 1 and s[0] > 0 for s in record["seconds"].values())
    assert record["ratios"]["ours"] == 1.0
    assert 0 < record["host_s"] < record["step_s"]
    assert "outside the model" in capsys.readouterr().out


@pytest.mark.skipif(not HAS_ALL, reason="torch, transformers and ctranslate2 needed")
def test_a_contestant_that_fails_is_one_line(tmp_path: Path) -> None:
    from benchmarks.contestants import Worker

    setup = Setup(tmp_path / "nowhere", 1, 16, 4)
    with pytest.raises(UserError, match=r"ours: .*nowhere does not exist"):
        Worker("ours", setup)
