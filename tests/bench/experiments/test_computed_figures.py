"""Figures that are computed: what preempting a sequence costs, and lengths as drawn."""

import numpy as np
import pytest

from bench.experiments.computed import drawn_workload, length_shares, preemption_costs
from bench.experiments.registry import FIGURES
from engines.core.models import find_model
from engines.sim.profile import load_profile


@pytest.fixture
def costs():
    return preemption_costs(**FIGURES["fig19-a"].claims[0].args).set_index("block_size")


def test_recomputing_does_not_depend_on_the_block_size(costs):
    assert costs["recompute_s"].to_numpy() == pytest.approx(costs["recompute_s"][1])
    assert costs["recompute_s"].iloc[0] > 0


def test_swapping_gets_cheaper_as_blocks_grow(costs):
    assert costs["swap_out_s"].is_monotonic_decreasing
    assert (costs["swap_in_s"] == costs["swap_out_s"]).all()


@pytest.mark.parametrize("size", [1, 16, 256])
def test_swapping_is_bytes_and_transfers(costs, size):
    model, profile = find_model("opt-13b"), load_profile("a100-40gb")
    num_bytes = 256 * model.kv_bytes_per_token
    transfers = 256 // size * 2 * model.num_layers
    expected = num_bytes / profile.pcie_bandwidth + transfers * profile.pcie_latency_s
    assert costs["swap_out_s"][size] == pytest.approx(expected)


def test_a_partly_filled_block_is_swapped_whole():
    options = {"model": "opt-13b", "device_profile": "a100-40gb"}
    one = preemption_costs([256], context_len=1, **options)
    full = preemption_costs([256], context_len=256, **options)
    assert one["swap_out_s"][0] == full["swap_out_s"][0]
    assert one["recompute_s"][0] < full["recompute_s"][0]


@pytest.mark.parametrize(
    ("name", "mean_input", "mean_output"),
    [("sharegpt", 161.31, 337.99), ("alpaca", 19.31, 58.45)],
)
def test_drawn_lengths_have_the_papers_means(name, mean_input, mean_output):
    workload = drawn_workload(name)
    assert workload.mean_input_len == pytest.approx(mean_input, rel=0.02)
    assert workload.mean_output_len == pytest.approx(mean_output, rel=0.02)


def test_shares_are_of_all_requests():
    shares = length_shares(np.array([1, 2, 3, 50], dtype=np.int32), np.array([0.0, 2.0, 10.0]))
    assert shares.tolist() == [25.0, 50.0]
