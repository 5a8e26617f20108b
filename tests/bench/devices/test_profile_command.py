"""`bench profile`, on the CPU and in small; the simulation takes what it writes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from command_line import passed, refused

from bench.point.serve import run_point
from bench.point.spec import PointSpec
from engines.sim.profile import load_profile


@pytest.mark.usefixtures("small_device")
def test_the_simulation_takes_a_measured_profile_whose_values_say_with_what(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    words = ("--device", "cpu", "--quick", "--name", "My CPU", "--out", file)
    result = passed("profile", *words)
    assert result.stdout == f"{file}\n"
    profile = load_profile(str(file))
    assert profile.name == "My CPU"
    assert profile.calibrated == {}
    assert set(profile.kv_block_efficiency) == {1, 16, 256}
    assert profile.kv_block_efficiency[16] == 1.0
    rates = ("weight_bandwidth", "kv_bandwidth", "flops", "attention_flops", "copy_bandwidth",
             "pcie_bandwidth", "memory_bytes")  # fmt: skip
    assert all(0 < getattr(profile, name) < math.inf for name in rates)
    assert profile.step_overhead_s > 0
    assert profile.element_bytes == 4, "measured in float32"
    assert (profile.link_bandwidth, profile.link_latency_s) == (math.inf, 0)
    lines = file.read_text().splitlines()
    assert lines[0].endswith("with the shapes of tiny in float32.")
    reasons = [line.split("  # ")[1] for line in lines if " = " in line and "  # " in line]
    assert len(reasons) == 9
    assert all(len(reason) > 10 for reason in reasons)
    spec = PointSpec(
        system="astra", model="opt-1.3b", rate=2.0, duration=5.0, device_profile=str(file),
        backend="sim", kv_slots=4096,
    )  # fmt: skip
    assert run_point(spec).metrics["finished"] > 0


BAD = {
    "x.txt": "must end in .toml, got",
    "x.toml --model opt-14b": "unknown model 'opt-14b'",
    "x.toml --dtype float16": "do not compute in 'float16'",
    "x.toml --device tpu": "unknown device 'tpu'",
    'x.toml --name a"b': "plain text without quotes",
}


@pytest.mark.parametrize("words", BAD)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path: Path, words: str) -> None:
    pytest.importorskip("torch")
    name, *rest = words.split()
    told = refused("profile", "--device", "cpu", "--out", tmp_path / name, *rest)
    assert BAD[words] in told
    assert list(tmp_path.iterdir()) == []
