"""Each term of the step time against a computation by hand, and what executors put into it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import FREE_RATES, FREE_TIMES, TINY, make_config, make_profile, make_request, make_sim

from engines.core.batch import Batch, Copy, Prompt, Swap
from engines.core.config import ModelSpec, find_model
from engines.core.errors import UserError
from engines.core.request import SequenceGroup
from engines.execution.cost import StepCost, Work

OPT = find_model("opt-13b")
P, L, H, S = OPT.num_parameters, 40, 5120, 2
WORK = Work(
    prompts=2,
    prompt_tokens=300,
    decodes=30,
    context_tokens=9000,
    prompt_squares=50_000,
    copied_bytes=1e6,
    swapped_bytes=4e7,
    transfers=160,
)


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
    ({"copy_bandwidth": 1e12}, {1: 2 * 1e6 / 1e12, 4: 2 * 1e6 / 1e12}),
    ({"pcie_bandwidth": 2e10}, {1: 4e7 / 2e10, 4: 4e7 / 2e10}),
    ({"pcie_latency_s": 3e-6}, {1: 160 * 3e-6, 4: 160 * 3e-6}),
    ({"step_overhead_s": 0.01}, {1: 0.01, 4: 0.01}),
    ({"sequence_overhead_s": 1e-4}, {1: 32e-4, 4: 32e-4}),
]


@pytest.mark.parametrize("degree", [1, 4])
@pytest.mark.parametrize(("values", "expected"), TERMS)
def test_each_term_alone(
    values: dict[str, float], expected: dict[int, float], degree: int
) -> None:
    """With all other rates infinite and latencies zero, a term stands alone."""
    assert seconds(WORK, degree=degree, **values) == pytest.approx(expected[degree], rel=1e-12)


def test_every_parameter_has_a_term() -> None:
    """The table above leaves none out."""
    assert {name for values, _ in TERMS for name in values} == {*FREE_RATES, *FREE_TIMES}


def test_free_device_takes_no_time() -> None:
    for degree in (1, 4):
        assert seconds(WORK, degree=degree) == 0.0


@pytest.mark.parametrize("degree", [1, 4])
def test_step_is_the_sum_of_terms(degree: int) -> None:
    """All add up but weights and arithmetic, of which the longer counts."""
    together: dict[str, float] = {}
    total = 0.0
    for values, expected in TERMS:
        together |= values
        total += expected[degree]
    weights, arithmetic = TERMS[0][1][degree], TERMS[1][1][degree]
    total -= min(weights, arithmetic)
    assert seconds(WORK, degree=degree, **together) == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize(("decodes", "bound"), [(1, "weights"), (1000, "arithmetic")])
def test_linear_layers_are_bound_by_the_slower(decodes: int, bound: str) -> None:
    expected = {"weights": S * P / 1e12, "arithmetic": 2 * P * decodes / 2e14}
    time_s = seconds(Work(decodes=decodes), weight_bandwidth=1e12, flops=2e14)
    assert time_s == pytest.approx(expected[bound])
    assert time_s == max(expected.values())


@pytest.mark.parametrize(("block_size", "factor"), [(8, 0.5), (16, 1.0), (32, 1.0)])
def test_block_efficiency_slows_only_its_block_size(block_size: int, factor: float) -> None:
    time_s = seconds(
        WORK, block_size=block_size, kv_bandwidth=1e12, kv_block_efficiency={8: 0.5}
    )
    assert time_s == pytest.approx(9000 * 2 * L * H * S / (1e12 * factor))


def test_only_python_hosts_pay_for_each_sequence() -> None:
    """FasterTransformer prepares its inputs in C++."""
    values = {"step_overhead_s": 0.01, "sequence_overhead_s": 1e-4}
    assert seconds(WORK, python_host=False, **values) == 0.01
    assert seconds(WORK, python_host=True, **values) == pytest.approx(0.0132)


def test_grouped_query_attention_reads_fewer_heads() -> None:
    """Keys and values of 2 of 8 heads are a quarter."""
    model = ModelSpec("gqa", "llama", 2, 8, 64, 128, 100, num_kv_heads=2)
    time_s = seconds(Work(context_tokens=100), model=model, kv_bandwidth=1e6)
    assert time_s == pytest.approx(100 * 2 * 2 * 16 * 2 / 1e6)


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
        sequence_overhead_s=1e-4,
    )
    cost = StepCost(OPT, profile, tensor_parallel=degree, block_size=16, python_host=True)
    work = Work(decodes=decodes, context_tokens=context_tokens)
    assert cost.decode_seconds(decodes, context_tokens) == pytest.approx(cost.seconds(work))


@pytest.mark.parametrize("degree", [0, -1, 3, 80])
def test_degree_that_does_not_divide_the_heads(degree: int) -> None:
    with pytest.raises(UserError, match=rf"degree {degree} does not divide the 40 heads of opt"):
        seconds(WORK, degree=degree)


def joined(batch: Batch, prompt_len: int, **values: Any) -> SequenceGroup:
    group = SequenceGroup(make_request(0, prompt_len, 4, sampling=values.pop("sampling", "n1")))
    group.running = group.unfinished
    batch.join(group, prompt_len)
    batch.prompts.append(Prompt(group, prompt_len, **values))
    return group


@pytest.mark.parametrize(
    ("cached", "copies", "tokens", "squares"),
    [(0, 1, 10, 100), (4, 1, 6, 84), (0, 3, 30, 300), (4, 3, 18, 252)],
)
def test_prompts_are_priced_by_what_is_computed(
    cached: int, copies: int, tokens: int, squares: int
) -> None:
    """A cached prefix is read but not computed; Orca computes a prompt once per sequence."""
    batch = Batch()
    joined(batch, 10, num_cached=cached, copies=copies, sampling="n3")
    by_token = make_sim(make_config(), make_profile(flops=2.0 * TINY.num_parameters))
    assert by_token.execute(batch).elapsed_s == pytest.approx(tokens)
    by_square = make_sim(make_config(), make_profile(attention_flops=2.0 * 2 * 8))
    assert by_square.execute(batch).elapsed_s == pytest.approx(squares)
    by_sequence = make_sim(make_config(), make_profile(sequence_overhead_s=1.0))
    assert by_sequence.execute(batch).elapsed_s == pytest.approx(3), "each sequence is sampled"


def test_swapped_blocks_move_one_by_one_per_layer() -> None:
    """A block is one transfer per layer for keys and one for values; bytes are per device."""
    batch = Batch()
    batch.swap_out += [Swap(0, 0), Swap(1, 1)]
    batch.swap_in.append(Swap(5, 2))
    by_transfer = make_sim(make_config(), make_profile(pcie_latency_s=1.0))
    assert by_transfer.execute(batch).elapsed_s == 3 * 2 * TINY.num_layers
    block_bytes = 4 * TINY.kv_bytes_per_token
    for degree in (1, 2):
        by_byte = make_sim(make_config(), make_profile(pcie_bandwidth=1.0), degree=degree)
        assert by_byte.execute(batch).elapsed_s == pytest.approx(3 * block_bytes / degree)


def test_copies_read_and_write() -> None:
    """Copied bytes count twice, per device."""
    batch = Batch()
    batch.copies += [Copy(0, 4, 4), Copy(0, 8, 3)]
    for degree in (1, 2):
        sim = make_sim(make_config(), make_profile(copy_bandwidth=1.0), degree=degree)
        expected = 2 * 7 * TINY.kv_bytes_per_token / degree
        assert sim.execute(batch).elapsed_s == pytest.approx(expected)


def test_decodes_are_priced_by_their_context() -> None:
    """Only sequences that decode read a cache; the prompt of the step does not count."""
    batch = Batch()
    joined(batch, 10)
    batch.clear_changes()
    batch.begin(1)
    batch.fix_decodes()
    sim = make_sim(make_config(), make_profile(kv_bandwidth=float(TINY.kv_bytes_per_token)))
    assert sim.execute(batch).elapsed_s == pytest.approx(11)
    joined(batch, 20)
    assert sim.execute(batch).elapsed_s == pytest.approx(11)
    assert math.isinf(make_profile().kv_bandwidth)
