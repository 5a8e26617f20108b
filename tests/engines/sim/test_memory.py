"""KV slots from memory by the original's rule, against Table 1 of the paper."""

from __future__ import annotations

from dataclasses import replace

import pytest
from serving import make_profile

from engines.core.config import GIB, parse_size
from engines.core.errors import UserError
from engines.core.models import MODELS, find_model
from engines.sim.profile import load_profile
from engines.sim.slots import (
    activation_bytes,
    default_slots,
    paper_server,
    slots_from_memory,
)


@pytest.mark.parametrize(
    ("name", "slots", "tolerance"),
    [("opt-13b", 15_700, 0.03), ("opt-66b", 9_700, 0.05), ("opt-175b", 60_100, 0.05)],
)
def test_rule_comes_close_to_table1_which_the_papers_servers_have(
    name: str, slots: int, tolerance: float
) -> None:
    """Only these have the paper's slots: for another degree or device the rule computes them."""
    model, larger = find_model(name), load_profile("a100-80gb")
    profile, degree = paper_server(model)
    found = slots_from_memory(model, load_profile(profile), degree)
    assert found == pytest.approx(slots, rel=tolerance)
    assert default_slots(model, load_profile(profile), degree) == slots
    other = default_slots(model, larger, 2 * degree)
    assert other == slots_from_memory(model, larger, 2 * degree) > slots


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_fits_its_default_server(name: str) -> None:
    model = find_model(name)
    profile, degree = paper_server(model)
    memory_bytes = degree * load_profile(profile).memory_bytes
    if model.num_parameters * 2 > memory_bytes:  # those of 30b and more that are not the paper's
        with pytest.raises(UserError, match=f"{name} does not fit"):
            default_slots(model, load_profile(profile), degree)
        return
    assert default_slots(model, load_profile(profile), degree) > model.max_positions


def test_rule_by_hand() -> None:
    """OPT-125M on 8 GiB: 95 % less 1 GiB, the parameters, and the logits of 2560 tokens twice."""
    model = find_model("opt-125m")
    profile = make_profile(memory_bytes=float(8 * GIB))
    logits = 2 * 2560 * 50272 * 2
    assert activation_bytes(model, 1, 2560) == logits
    left = 0.95 * 8 * GIB - GIB - 2 * model.num_parameters - logits
    assert slots_from_memory(model, profile) == int(left // (2 * 12 * 768 * 2))


def test_each_device_keeps_its_own_workspace() -> None:
    """Two devices of half the memory leave less than one: workspace and logits come twice."""
    model = find_model("opt-1.3b")
    whole = slots_from_memory(model, make_profile(memory_bytes=float(16 * GIB)))
    halves = slots_from_memory(model, make_profile(memory_bytes=float(8 * GIB)), 2)
    lost = (GIB + activation_bytes(model, 2, 2560)) / model.kv_bytes_per_token
    assert whole - halves == pytest.approx(lost, rel=0.01)


def test_copies_of_kv_heads_take_memory_on_every_device() -> None:
    """Four KV heads on 28 devices fill as much as 28 heads do."""
    model = find_model("qwen2.5-7b")
    one = replace(model, num_kv_heads=28)
    profile, degree = make_profile(memory_bytes=float(40 * GIB)), 28
    apart = slots_from_memory(one, profile, degree)
    assert slots_from_memory(model, profile, degree) == pytest.approx(apart, rel=0.01)


def test_model_too_large_names_the_sizes_and_a_remedy() -> None:
    with pytest.raises(UserError) as caught:
        slots_from_memory(find_model("opt-175b"), load_profile("a100-40gb"))
    message = str(caught.value)
    assert "opt-175b does not fit" in message
    assert "1 x a100-40gb" in message
    assert "--tensor-parallel" in message
    assert "\n" not in message


@pytest.mark.parametrize("memory_bytes", [1e14, 1e308])
def test_memory_beyond_every_machine_is_refused(memory_bytes: float) -> None:
    """Lists of so many blocks would not fit here; 8 x 1e308 is no number at all."""
    profile = make_profile(memory_bytes=memory_bytes)
    with pytest.raises(UserError, match=r"8 x free hold more than 100,000,000 KV slots of opt-13b"):
        slots_from_memory(find_model("opt-13b"), profile, 8)


@pytest.mark.parametrize(
    ("name", "billions"),
    [("opt-125m", 0.125), ("opt-350m", 0.331), ("opt-13b", 12.85), ("opt-66b", 65.7),
     ("opt-175b", 174.6), ("llama-7b", 6.74), ("llama-13b", 13.02)],
)  # fmt: skip
def test_parameters_by_shape(name: str, billions: float) -> None:
    """Published parameter counts."""
    assert find_model(name).num_parameters / 1e9 == pytest.approx(billions, rel=0.005)


@pytest.mark.parametrize(
    ("text", "size"), [("40GiB", 40 * GIB), ("1.5GiB", 3 * GIB // 2), ("2GB", 2 * 10**9)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["40", "GiB", "-1GiB", "0GiB", "infGiB", "nanGiB", "40 Gi", "1e305GiB"]
)
def test_bad_sizes(text: str) -> None:
    with pytest.raises(UserError, match="is not understood"):
        parse_size(text)
