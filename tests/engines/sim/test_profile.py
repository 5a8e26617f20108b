"""Device profiles: those shipped are sound, and every fault of a file is one clear line."""

from __future__ import annotations

import hashlib
import math
import os
from importlib import resources
from pathlib import Path

import pytest

from engines.core.errors import UserError
from engines.sim.profile import HOST_TERMS, load_profile, names_of

GOOD = """
name = "mine"
memory_bytes = 8e9
weight_bandwidth = 1e11
kv_bandwidth = 1e11
flops = 1e13
attention_flops = inf
copy_bandwidth = 1e11
pcie_bandwidth = 1e10
pcie_latency_s = 0
link_bandwidth = inf
link_latency_s = 0.0
step_overhead_s = 0.001
"""


def write(folder: Path, text: str | bytes) -> str:
    path = folder / "mine.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


@pytest.mark.parametrize("name", names_of("profiles"))
def test_shipped_profiles_load(name: str) -> None:
    """They carry their own name, the hash of their files, and what was calibrated on what."""
    profile = load_profile(name)
    data = resources.files("engines.sim")
    files = (data / "profiles" / f"{name}.toml", data / "hosts" / "paper.toml")
    assert (profile.name, profile.host) == (name, "paper")
    assert profile.sha256 == hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()
    assert set(profile.calibrated) <= vars(profile).keys()
    assert all(math.isfinite(v) for v in vars(profile).values() if isinstance(v, float))


def test_file_of_ones_own(tmp_path: Path) -> None:
    """Defaults fill the optional parameters; block sizes become integers."""
    text = GOOD + '[kv_block_efficiency]\n8 = 0.7\n16 = 1\n[calibrated]\nflops = "a number"\n'
    profile = load_profile(write(tmp_path, text))
    assert profile.kv_block_efficiency == {8: 0.7, 16: 1.0}
    assert profile.calibrated == {"flops": "a number"}
    assert profile.sequence_overhead_s == 0
    assert profile.attention_flops == math.inf


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("flops = 1e13\n", "", "lacks flops"),
        ("flops = 1e13", "flop = 1e13", "has unknown flop"),
        ("memory_bytes", 'colour = "red"\nmemory_bytes', "has unknown colour"),
        ("memory_bytes = 8e9", 'memory_bytes = "8e9"', "memory_bytes has the wrong type: '8e9'"),
        ("memory_bytes = 8e9", "memory_bytes = true", "memory_bytes has the wrong type: True"),
        ("memory_bytes = 8e9", "memory_bytes = inf", "memory_bytes must be finite"),
        ("memory_bytes = 8e9", f"memory_bytes = {10**400}", "a whole number beyond 1e308"),
        ("memory_bytes = 8e9", f"memory_bytes = {'9' * 5000}", "is not valid TOML"),
        ("memory_bytes = 8e9", f"memory_bytes = {'[' * 5000}", "is not valid TOML"),
        (
            "memory_bytes = 8e9",
            "memory_bytes = 8e9\nelement_bytes = 3",
            "element_bytes must be 2 or 4, got 3",
        ),
        ('name = "mine"', "name = 3", "name has the wrong type: 3"),
        ("kv_bandwidth = 1e11", "kv_bandwidth = -1", "kv_bandwidth must be positive, got -1"),
        ("kv_bandwidth = 1e11", "kv_bandwidth = 0", "kv_bandwidth must be positive, got 0"),
        ("kv_bandwidth = 1e11", "kv_bandwidth = nan", "kv_bandwidth must be positive, got nan"),
        ("step_overhead_s = 0.001", "step_overhead_s = -1", "step_overhead_s must be at least 0"),
        ("step_overhead_s = 0.001", "step_overhead_s = nan", "step_overhead_s must be at least 0"),
        ("step_overhead_s = 0.001", "step_overhead_s = inf", "step_overhead_s must be finite"),
        ("flops = 1e13", "flops = ", "is not valid TOML"),
        ("step_overhead_s", "kv_block_efficiency = 3\nstep_overhead_s", "has the wrong type: 3"),
        (
            "step_overhead_s",
            'kv_block_efficiency = {"big" = 0.5}\nstep_overhead_s',
            "kv_block_efficiency maps block sizes to numbers",
        ),
        (
            "step_overhead_s",
            f"kv_block_efficiency = {{16 = {10**400}}}\nstep_overhead_s",
            "kv_block_efficiency maps block sizes to numbers",
        ),
        (
            "step_overhead_s",
            "kv_block_efficiency = {16 = 0}\nstep_overhead_s",
            "kv_block_efficiency must be positive",
        ),
    ],
)
def test_faults_are_named_on_one_line(tmp_path: Path, old: str, new: str, problem: str) -> None:
    assert GOOD.count(old) >= 1
    with pytest.raises(UserError) as caught:
        load_profile(write(tmp_path, GOOD.replace(old, new, 1)))
    message = str(caught.value)
    assert problem in message
    assert "mine" in message, "the profile is not named"
    assert "\n" not in message


DATA_SHEET = """
name = "mine"
memory_bytes = 8e9
[data_sheet]
memory_bandwidth = 1e12
flops = 1e14
link_bandwidth = 1e11
pcie_bandwidth = 1e10
"""


def test_a_data_sheet_makes_a_profile(tmp_path: Path) -> None:
    """Rates are shares of its numbers, said to be assumed; one may be given, or its share."""
    profile = load_profile(write(tmp_path, DATA_SHEET + "[shares]\nkv_bandwidth = 0.9\n"))
    assert (profile.weight_bandwidth, profile.kv_bandwidth) == (0.76e12, 0.9e12)
    assert profile.assumed["kv_bandwidth"] == "0.9 of memory_bandwidth; kernels reach 0.45 to 0.9"
    assert (profile.host, profile.worker_overhead_s) == ("paper", 0.003)
    assert profile.kv_block_efficiency == load_profile("a100-40gb").kv_block_efficiency
    measured = load_profile(write(tmp_path, "flops = 7e13\n" + DATA_SHEET))
    assert measured.flops == 7e13
    assert "flops" not in measured.assumed
    assert "attention_flops" in measured.assumed


def test_shares_are_those_of_the_papers_device(tmp_path: Path) -> None:
    paper = load_profile("a100-40gb")
    sheet = "memory_bandwidth = 1.555e12\nflops = 3.12e14\n"
    sheet += "link_bandwidth = 3.0e11\npcie_bandwidth = 2.5e10\n"
    text = 'name = "mine"\nmemory_bytes = 8e9\n[data_sheet]\n' + sheet
    derived = load_profile(write(tmp_path, text))
    assert paper.assumed == {}
    assert len(derived.assumed) == 7
    for name in derived.assumed:
        assert getattr(derived, name) == pytest.approx(getattr(paper, name), rel=2e-3)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("flops = 1e14\n", "", "data_sheet lacks flops"),
        ("flops = 1e14", "flop = 1e14", "unknown name in data_sheet 'flop': did you mean flops"),
        (
            "flops = 1e14",
            "flops = 0",
            "data_sheet.flops must be a number in B/s, FLOP/s or bytes, such as 300e9, got 0",
        ),
        ("flops = 1e14", "flops = true", "such as 300e9, got True"),
        ("flops = 1e14", "flops = 312", "such as 300e9, got 312"),
        ("[data_sheet]", "[shares]\nflops = 60\n[data_sheet]", "at most 1, got 60"),
        ("flops = 1e14", f"flops = {10**400}", "a whole number beyond 1e308"),
        ("[data_sheet]", "data_sheet = 3\n[shares]", "data_sheet has the wrong type: 3"),
        ("[data_sheet]", "[shares]\nmemory = 0.5\n[data_sheet]", "unknown name in shares 'memory'"),
        (
            "[data_sheet]",
            "[shares]\nflops = -1\n[data_sheet]",
            "shares.flops must be a share, above 0 and at most 1, got -1",
        ),
        ("[data_sheet]\n", "[shares]\n", "unknown name in shares 'memory_bandwidth'"),
        ("[data_sheet]", 'host = "papr"\n[data_sheet]', "unknown host 'papr': did you mean paper"),
        ("[data_sheet]", "host = 3\n[data_sheet]", "host has the wrong type: 3"),
    ],
)
def test_faults_of_a_data_sheet(tmp_path: Path, old: str, new: str, problem: str) -> None:
    assert DATA_SHEET.count(old) == 1
    with pytest.raises(UserError) as caught:
        load_profile(write(tmp_path, DATA_SHEET.replace(old, new)))
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_host(tmp_path: Path) -> None:
    """It replaces the host's times alone, and what was fitted for them."""
    paper, free = load_profile("a100-40gb"), load_profile("a100-40gb", "none")
    assert {name: getattr(free, name) for name in HOST_TERMS} == dict.fromkeys(HOST_TERMS, 0.0)
    assert {"draw_overhead_s", "worker_overhead_s"} < paper.calibrated.keys()
    assert free.calibrated == {}
    assert (free.flops, free.host) == (paper.flops, "none")
    assert free.sha256 != paper.sha256
    measured = load_profile("a100-40gb", write(tmp_path, GOOD + "sequence_overhead_s = 2e-5\n"))
    assert (measured.step_overhead_s, measured.sequence_overhead_s) == (0.001, 2e-5)
    assert (measured.worker_overhead_s, measured.flops) == (0.0, paper.flops)
    assert load_profile(write(tmp_path, GOOD), "paper").step_overhead_s == 0.0
    own = load_profile(write(tmp_path, 'host = "paper"\n' + GOOD))
    assert (own.step_overhead_s, own.worker_overhead_s) == (0.001, paper.worker_overhead_s)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("speed = 3", "has unknown speed"),
        ("flops = 1e14", "has none of step_overhead_s, worker_overhead_s"),
        ("step_overhead_s = 'fast'", "step_overhead_s has the wrong type: 'fast'"),
        ("step_overhead_s = -1", "step_overhead_s must be at least 0, got -1"),
        ("[", "is not valid TOML"),
    ],
)
def test_faults_of_a_host(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(UserError) as caught:
        load_profile("a100-40gb", write(tmp_path, text))
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [b"\xff\xfe", b"not a profile", b""])
def test_not_a_profile_at_all(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(UserError, match=r"mine\.toml") as caught:
        load_profile(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read device profile .*none\.toml"):
        load_profile(str(tmp_path / "none.toml"))
    folder = tmp_path / "folder.toml"
    folder.mkdir()
    with pytest.raises(UserError, match="is not a regular file"):
        load_profile(str(folder))
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(UserError, match="is not a regular file"):
        load_profile(str(tmp_path / "pipe.toml"))


def test_misspelt_name_gets_the_nearest() -> None:
    with pytest.raises(
        UserError, match=r"unknown device profile 'a100-40': did you mean a100-40gb"
    ):
        load_profile("a100-40")
    with pytest.raises(UserError, match=r"unknown device profile 'x+\.\.\.x+'"):
        load_profile("x" * 300)  # longer than a file's name may be
