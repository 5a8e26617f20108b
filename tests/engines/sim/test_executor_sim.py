"""What the simulation's executor makes of a batch: which work it prices, and how much of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from serving import (
    ORCA,
    PARAMETERS,
    TINY,
    drive,
    make_config,
    make_engine,
    make_profile,
    make_request,
    make_sim,
)

from engines.core.batch import Batch, Copy, Prompt, Swap
from engines.core.executor import Fork
from engines.core.request import SequenceGroup
from engines.sim.beams import BeamProcess
from engines.sim.cost import Work
from engines.sim.executor import work_of


class Forking(BeamProcess):
    """Makes the forks that it was given in every step."""

    def __init__(self, forks: list[Fork]) -> None:
        super().__init__(seed=0)
        self._forks = forks

    def step(self, batch: Batch) -> list[Fork]:
        return self._forks


def joined(batch: Batch, prompt_len: int, **values: Any) -> SequenceGroup:
    group = SequenceGroup(make_request(0, prompt_len, 4, sampling=values.pop("sampling", "n1")))
    group.start()
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
    assert work_of(batch, block_size=4) == Work(
        prompts=3, prompt_tokens=tokens, prompt_squares=squares, groups=1
    ), "each of three sequences is sampled"


def test_moved_blocks_and_copied_tokens_are_counted() -> None:
    """A copy touches whole blocks."""
    batch = Batch()
    batch.swap_out += [Swap(0, 0), Swap(1, 1)]
    batch.swap_in.append(Swap(5, 2))
    batch.copies += [Copy(0, 4, 4), Copy(0, 8, 3), Copy(16, 32, 16)]
    assert work_of(batch, block_size=4) == Work(
        blocks_in=1, blocks_out=2, copied_tokens=4 + 3 + 16, copied_blocks=1 + 1 + 4
    )


def test_replaced_beams_are_priced_by_their_tokens() -> None:
    """Two of three places continue another one's beam: 10 prompt tokens and one of the output."""
    batch = Batch()
    group = joined(batch, 10, sampling="beam3")
    batch.clear_changes()
    batch.begin(1)
    batch.fix_decodes()
    by_token = make_sim(make_config(), make_profile(fork_token_overhead_s=1.0))
    by_output = make_sim(make_config(), make_profile(fork_output_overhead_s=1.0))
    for sim, expected in ((by_token, 2 * 11), (by_output, 2 * 1)):
        sim._beams = Forking([Fork(group, (1, 1, 1))])
        assert sim.execute(batch).elapsed_s == expected


def test_groups_count_once_whatever_their_sequences_and_decodes_with_their_context() -> None:
    """One that decodes and one with its prompt, of which one searches with beams."""
    batch = Batch()
    decoding = joined(batch, 10, sampling="n3")
    batch.clear_changes()
    batch.begin(1)
    batch.fix_decodes()
    alone = Work(decodes=3, groups=1, context_tokens=3 * 11)
    assert work_of(batch, block_size=4) == alone
    joined(batch, 20, sampling="beam2")
    assert work_of(batch, block_size=4) == replace(
        alone, groups=2, beam_groups=1, prompts=2, prompt_tokens=20, prompt_squares=400
    ), "a prompt of this step reads no cache"
    batch.leave(decoding, decoding.running[:1])
    decoding.running = decoding.running[1:]
    assert batch.num_groups == 2, "two of its sequences are left"
    batch.leave(decoding, decoding.running)
    assert batch.num_groups == 1


@pytest.mark.parametrize("prompt", [False, True])
def test_a_batch_is_priced_with_its_work(*, prompt: bool) -> None:
    """By the whole formula, or by its short cut for steps that only decode."""
    batch = Batch()
    joined(batch, 10, sampling="beam2")
    batch.clear_changes()
    batch.begin(1)
    batch.fix_decodes()
    if prompt:
        joined(batch, 20)
    names = [name for name in PARAMETERS if not name.startswith("fork")]
    sim = make_sim(make_config(), make_profile(**dict.fromkeys(names, 3.0)))
    expected = sim.cost.seconds(work_of(batch, block_size=4))
    assert sim.execute(batch).elapsed_s == pytest.approx(expected)


ONE_FLOP_A_TOKEN = make_profile(flops=2.0 * TINY.num_parameters)


@pytest.mark.parametrize(
    ("system", "computed"), [("astra", 10), *((system.value, 30) for system in ORCA), ("ft", 30)]
)
def test_a_groups_prompt_is_shared_only_by_astra(system: str, computed: int) -> None:
    """Three sequences of 10 + 4 tokens: one prompt or three, then three tokens a step."""
    config = make_config(system, num_slots=256)
    engine = make_engine(config, profile=ONE_FLOP_A_TOKEN)
    (group,) = drive(engine, [make_request(0, 10, 4, sampling="n3")], max_steps=9)
    assert group.first_token_s == pytest.approx(computed)
    assert group.finish_s == pytest.approx(computed + 3 * 3)


def test_ft_is_priced_with_its_padding() -> None:
    """Prompts of 4 and 10 tokens cost 20, and both sequences are computed for 6 steps."""
    engine = make_engine(make_config("ft", num_slots=256), profile=ONE_FLOP_A_TOKEN)
    groups = drive(engine, [make_request(0, 4, 2), make_request(1, 10, 6)], max_steps=9)
    assert [g.first_token_s for g in groups] == pytest.approx([20, 20])
    assert [g.finish_s for g in groups] == pytest.approx([30, 30])


def test_ft_reads_its_padding() -> None:
    """Decoding reads the longest prompt for both: contexts of 11 and 12, twice."""
    profile = make_profile(kv_bandwidth=float(TINY.kv_bytes_per_token))
    engine = make_engine(make_config("ft", num_slots=256), profile=profile)
    groups = drive(engine, [make_request(0, 4, 3), make_request(1, 10, 2)], max_steps=9)
    assert [g.finish_s for g in groups] == pytest.approx([46, 46])


def test_recomputation_is_priced_as_one_prompt() -> None:
    """A preempted group computes prompt and generated tokens at once."""
    config = make_config(num_slots=16, max_model_len=16, watermark=0.0)
    engine = make_engine(config, profile=ONE_FLOP_A_TOKEN)
    groups = drive(engine, [make_request(0, 4, 9), make_request(1, 4, 9)], max_steps=30)
    assert [g.num_preemptions for g in groups] == [0, 2]
    # Steps 0-14: two prompts; two decodes; one; one and a prompt of 6; one, five times; a prompt
    # of 7; five decodes.
    assert engine.clock.now == pytest.approx(8 + 2 + 1 + (1 + 6) + 5 + 7 + 5)


def test_swapping_costs_the_blocks_there_and_back() -> None:
    """As many transfers in as out, each 2 L of a block."""
    config = make_config(num_slots=16, max_model_len=16, watermark=0.0, preemption="swap")
    engine = make_engine(config, profile=make_profile(pcie_latency_s=1.0))
    groups = drive(engine, [make_request(0, 4, 9), make_request(1, 4, 9)], max_steps=30)
    preemptions = sum(group.num_preemptions for group in groups)
    assert preemptions > 0
    # Group 1 holds two blocks whenever it goes.
    assert engine.clock.now == pytest.approx(preemptions * 2 * 2 * 2 * TINY.num_layers)


@pytest.mark.parametrize("system", ["astra", "orca-oracle"])
def test_beams_copy_a_block_or_the_whole_cache(system: str) -> None:
    """Orca copies a continued beam's chunk of 256; Astra only partly filled shared blocks."""
    config = make_config(system, num_slots=1024, max_model_len=256)
    engine = make_engine(config, profile=make_profile(copy_bandwidth=2.0 * TINY.kv_bytes_per_token))
    drive(engine, [make_request(0, 40, 100, sampling="beam2")], max_steps=200)
    copied_tokens = engine.clock.now
    if system == "astra":
        assert copied_tokens % 4 == pytest.approx(0)
        assert 0 < copied_tokens <= 4 * 100
    else:
        assert copied_tokens % 256 == pytest.approx(0)
        assert copied_tokens > 0
