"""The block pool against a model: a block is free or held, and nothing is lost."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from engines.astra.block_pool import BlockPool

NUM_BLOCKS = 7


class PoolMachine(RuleBasedStateMachine):
    """`held` are the blocks taken and not given back."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(NUM_BLOCKS)
        self.held: list[int] = []

    @rule(count=st.integers(0, NUM_BLOCKS))
    def allocate(self, count: int) -> None:
        if count > NUM_BLOCKS - len(self.held):
            with pytest.raises(AssertionError, match=f"{count} blocks of 7 are not free"):
                self.pool.allocate(count)
            return
        blocks = self.pool.allocate(count)
        assert len(set(blocks)) == count
        assert not set(blocks) & set(self.held), "a held block was handed out"
        assert set(blocks) <= set(range(NUM_BLOCKS))
        self.held += blocks

    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        blocks = data.draw(st.permutations(self.held))[: data.draw(st.integers(0, NUM_BLOCKS))]
        self.pool.free(blocks)
        self.held = [block for block in self.held if block not in blocks]

    @invariant()
    def agrees(self) -> None:
        self.pool.check_integrity(self.held)
        assert self.pool.num_used == len(self.held)
        assert self.pool.num_free + self.pool.num_used == NUM_BLOCKS


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(
    deadline=None, derandomize=True, max_examples=60, stateful_step_count=40
)


def test_a_pool_costs_what_is_used_of_it() -> None:
    """The largest cache that may be asked for, in thousands of engines, takes no memory."""
    pools = [BlockPool(100_000_000) for _ in range(10_000)]
    assert pools[-1].allocate(3) == [0, 1, 2]


@pytest.mark.parametrize(
    ("held", "problem"),
    [([0], "lost"), ([0, 1, 1], "twice"), ([0, 1, 2], "twice"), ([], "lost"), ([0, 9], "lost")],
)
def test_integrity_check_finds_wrong_holders(held: list[int], problem: str) -> None:
    """Blocks 0 and 1 of 3 are held: nothing else is accepted."""
    pool = BlockPool(3)
    pool.allocate(2)
    pool.check_integrity([0, 1])
    with pytest.raises(AssertionError, match=problem):
        pool.check_integrity(held)


def test_integrity_check_finds_doubled_and_miscounted_free_blocks() -> None:
    """The free list itself is checked, and so is what is given back too often."""
    pool = BlockPool(3)
    pool.free(pool.allocate(2))
    pool._returned[0] = pool._returned[1]
    with pytest.raises(AssertionError, match="twice"):
        pool.check_integrity([])
    pool._returned.pop()
    with pytest.raises(AssertionError, match="counted free"):
        pool.check_integrity([])
    with pytest.raises(AssertionError, match="freed twice"):
        pool.free([0])
