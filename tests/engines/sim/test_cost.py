"""Each term of the step time against a computation by hand, and what executors put into it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import PARAMETERS, make_profile

from engines.core.errors import UserError
from engines.core.models import ModelSpec, find_model
from engines.sim.cost import StepCost, Work

OPT = find_model("opt-13b")
P, L, H, S = OPT.num_parameters, 40, 5120, 2
WORK = Work(
    prompts=2,
    prompt_tokens=300,
    decodes=30,
    groups=12,
    beam_groups=5,
    context_tokens=9000,
    prompt_squares=50_000,
    copied_tokens=40,
    copied_blocks=3,
    blocks_in=2,
    blocks_out=3,
)
KV_BYTES = 2 * L * H * S  # of a token


def seconds(work: Work, *, degree: int = 1, model: ModelSpec = OPT, **values: Any) -> float:
    """The step time on a device that is free but for `values`."""
    settings_of_cost = {"block_size": values.pop("block_size", 16)}
    python_host = values.pop("python_host", True)
    cost = StepCost(
        model,
        make_profile(**values),
        tensor_parallel=degree,
        python_host=python_host,
        **settings_of_cost,
    )
    return cost.seconds(work)


TERMS = [
    ({"weight_bandwidth": 1e12}, {1: S * P / 1e12, 4: S * P / 4e12}),
    ({"flops": 2e14}, {1: 2 * P * 330 / 2e14, 4: 2 * P * 330 / 8e14}),
    ({"kv_bandwidth": 1e12}, {1: 9000 * 2 * L * H * S / 1e12, 4: 9000 * 2 * L * H * S / 4e12}),
    ({"attention_flops": 1e14}, {1: 50_000 * 2 * L * H / 1e14, 4: 50_000 * 2 * L * H / 4e14}),
    ({"link_latency_s": 2e-5}, {1: 0.0, 4: 2 * L * 2e-5}),
    ({"link_bandwidth": 2e11}, {1: 0.0, 4: 2 * L * 2 * 3 / 4 * 330 * H * S / 2e11}),
    ({"copy_bandwidth": 1e12}, {1: 2 * 40 * KV_BYTES / 1e12, 4: 2 * 40 * KV_BYTES / 4e12}),
    ({"pcie_bandwidth": 2e10}, {1: 5 * 16 * KV_BYTES / 2e10, 4: 5 * 16 * KV_BYTES / 8e10}),
    ({"pcie_latency_s": 3e-6}, {1: 5 * 2 * L * 3e-6, 4: 5 * 2 * L * 3e-6}),
    ({"step_overhead_s": 0.01}, {1: 0.01, 4: 0.01}),
    ({"worker_overhead_s": 0.005}, {1: 0.005, 4: 0.02}),
    ({"worker_group_overhead_s": 1e-5}, {1: 12e-5, 4: 48e-5}),
    ({"group_overhead_s": 2e-4}, {1: 24e-4, 4: 24e-4}),
    ({"draw_overhead_s": 1e-4}, {1: 12e-4, 4: 12e-4}),
    ({"beam_overhead_s": 3e-4}, {1: 15e-4, 4: 15e-4}),
    ({"sequence_overhead_s": 1e-4}, {1: 32e-4, 4: 32e-4}),
]


@pytest.mark.parametrize("degree", [1, 4])
@pytest.mark.parametrize(("values", "expected"), TERMS)
def test_each_term_alone(values: dict[str, Any], expected: dict[int, float], degree: int) -> None:
    """With all other rates infinite and latencies zero, a term stands alone."""
    assert seconds(WORK, degree=degree, **values) == pytest.approx(expected[degree], rel=1e-12)


def test_every_parameter_has_a_term() -> None:
    """The table above leaves none out but those of forks, which are no part of a step's work."""
    forks = {"fork_token_overhead_s", "fork_output_overhead_s"}
    assert {name for values, _ in TERMS for name in values} == set(PARAMETERS) - forks


@pytest.mark.parametrize("degree", [1, 4])
def test_step_is_the_sum_of_terms(degree: int) -> None:
    """All add up but weights and arithmetic, which add as squares: neither is hidden."""
    together: dict[str, Any] = {}
    total = 0.0
    for values, expected in TERMS:
        together |= values
        total += expected[degree]
    weights, arithmetic = TERMS[0][1][degree], TERMS[1][1][degree]
    total += math.hypot(weights, arithmetic) - weights - arithmetic
    assert seconds(WORK, degree=degree, **together) == pytest.approx(total, rel=1e-12)


def test_forks_copy_on_a_python_host() -> None:
    """By the tokens of the beams that go on, and by those of them that are output."""
    profile = make_profile(fork_token_overhead_s=1e-3, fork_output_overhead_s=1.0)
    for python_host, expected in ((True, 7 + 0.09), (False, 0.0)):
        cost = StepCost(OPT, profile, tensor_parallel=4, block_size=16, python_host=python_host)
        assert cost.fork_seconds(90, 7) == pytest.approx(expected)


@pytest.mark.parametrize(("block_size", "factor"), [(8, 0.5), (16, 1.0), (32, 1.0)])
def test_block_efficiency_slows_only_its_block_size(block_size: int, factor: float) -> None:
    time_s = seconds(WORK, block_size=block_size, kv_bandwidth=1e12, kv_block_efficiency={8: 0.5})
    assert time_s == pytest.approx(9000 * 2 * L * H * S / (1e12 * factor))


def test_only_python_hosts_pay_for_workers_groups_and_sequences() -> None:
    """FasterTransformer prepares its inputs in C++."""
    values: dict[str, Any] = {
        "step_overhead_s": 0.01,
        "worker_overhead_s": 0.002,
        "group_overhead_s": 1e-3,
        "draw_overhead_s": 1e-3,
        "worker_group_overhead_s": 1e-3,
        "beam_overhead_s": 2e-3,
        "sequence_overhead_s": 1e-4,
    }
    assert seconds(WORK, python_host=False, degree=4, **values) == 0.01
    assert seconds(WORK, python_host=True, degree=4, **values) == pytest.approx(
        0.0552 + 4 * 12 * 1e-3
    )


def test_grouped_query_attention_reads_fewer_heads() -> None:
    """Keys and values of 2 of 8 heads are a quarter."""
    model = ModelSpec("gqa", "llama", 2, 8, 64, 128, 100, num_kv_heads=2)
    time_s = seconds(Work(context_tokens=100), model=model, kv_bandwidth=1e6)
    assert time_s == pytest.approx(100 * 2 * 2 * 16 * 2 / 1e6)


def test_kv_heads_beyond_which_devices_hold_copies() -> None:
    """Two KV heads on eight devices: each reads one whole head, as if there were two devices."""
    model = ModelSpec("gqa", "llama", 2, 8, 64, 128, 100, num_kv_heads=2)
    work = Work(context_tokens=100)
    two, eight = (seconds(work, model=model, degree=d, kv_bandwidth=1e6) for d in (2, 8))
    assert two == eight == pytest.approx(100 * 2 * 2 * 16 * 2 / 2e6)


def test_prompt_attention_is_as_wide_as_its_heads() -> None:
    """Qwen3's queries are wider than the hidden size."""
    model = ModelSpec("wide", "qwen3", 2, 8, 64, 128, 100, head_dim=32)
    time_s = seconds(Work(prompt_squares=1000), model=model, attention_flops=1e6)
    assert time_s == pytest.approx(1000 * 2 * 2 * 256 / 1e6)


@settings(deadline=None, derandomize=True)
@given(st.integers(0, 3000), st.integers(0, 10**6), st.sampled_from([1, 2, 8]))
def test_decode_steps_have_one_price(decodes: int, context_tokens: int, degree: int) -> None:
    """The short cut for steps that only decode agrees with the whole formula."""
    profile = make_profile(
        weight_bandwidth=1e12,
        flops=2e14,
        kv_bandwidth=1e12,
        link_bandwidth=2e11,
        link_latency_s=1e-5,
        step_overhead_s=0.01,
        group_overhead_s=2e-4,
        beam_overhead_s=3e-4,
        sequence_overhead_s=1e-4,
    )
    cost = StepCost(OPT, profile, tensor_parallel=degree, block_size=16, python_host=True)
    groups, beam_groups = decodes // 2, decodes // 3
    work = Work(
        decodes=decodes, groups=groups, beam_groups=beam_groups, context_tokens=context_tokens
    )
    short = cost.decode_seconds(decodes, context_tokens, groups=groups, beam_groups=beam_groups)
    assert short == pytest.approx(cost.seconds(work))


@pytest.mark.parametrize("degree", [0, -1, 3, 80])
def test_degree_that_does_not_divide_the_heads(degree: int) -> None:
    with pytest.raises(UserError, match=rf"degree {degree} does not divide the 40 heads of opt"):
        seconds(WORK, degree=degree)
