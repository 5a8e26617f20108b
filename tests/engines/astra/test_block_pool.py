"""The block pool against a model: reference counts are table entries, and nothing is lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engines.astra.block_pool import BlockPool

NUM_BLOCKS = 7


class PoolMachine(RuleBasedStateMachine):
    """`entries` is one list of all table entries, a block once for each reference."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(NUM_BLOCKS)
        self.entries: list[int] = []

    @precondition(lambda self: len(set(self.entries)) < NUM_BLOCKS)
    @rule(references=st.integers(1, 4))
    def allocate(self, references: int) -> None:
        block = self.pool.allocate(references)
        assert block not in self.entries, "a used block was handed out"
        assert 0 <= block < NUM_BLOCKS
        self.entries += [block] * references

    @precondition(lambda self: self.entries)
    @rule(data=st.data(), references=st.integers(1, 3))
    def share(self, data: st.DataObject, references: int) -> None:
        block = data.draw(st.sampled_from(sorted(set(self.entries))))
        self.pool.share(block, references)
        self.entries += [block] * references

    @precondition(lambda self: self.entries)
    @rule(data=st.data(), references=st.integers(1, 2))
    def share_all(self, data: st.DataObject, references: int) -> None:
        blocks = data.draw(st.lists(st.sampled_from(sorted(set(self.entries))), unique=True))
        self.pool.share_all(blocks, references)
        self.entries += blocks * references

    @precondition(lambda self: self.entries and len(set(self.entries)) < NUM_BLOCKS)
    @rule(data=st.data())
    def unshare(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(sorted(set(self.entries))))
        shared = self.entries.count(block) > 1
        own = self.pool.unshare(block)
        assert (own not in self.entries) if shared else own == block
        self.entries.remove(block)
        self.entries.append(own)

    @precondition(lambda self: self.entries)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(sorted(set(self.entries))))
        self.pool.release(block)
        self.entries.remove(block)

    @rule()
    def release_all(self) -> None:
        self.pool.release_all(self.entries)
        self.entries = []

    @invariant()
    def agrees(self) -> None:
        self.pool.check_integrity([self.entries])
        assert self.pool.num_used == len(set(self.entries))
        assert self.pool.num_free + self.pool.num_used == NUM_BLOCKS
        for block in range(NUM_BLOCKS):
            assert self.pool.references(block) == self.entries.count(block)


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(
    deadline=None, derandomize=True, max_examples=60, stateful_step_count=40
)


def test_hundred_thousand_random_operations() -> None:
    """Tables of random length come and go, sharing blocks: all is accounted for throughout."""
    random = np.random.default_rng(0)
    pool = BlockPool(500)
    tables: list[list[int]] = []
    draws = random.random((100_000, 2))
    for number, (kind, which) in enumerate(draws.tolist()):
        if tables and (kind < 0.35 or not pool.num_free):
            table = tables.pop(int(which * len(tables)))
            pool.release_all(table)
        elif tables and kind < 0.6:
            source = tables[int(which * len(tables))]
            pool.share_all(source)
            tables.append(source.copy())
        else:
            size = min(1 + int(which * 6), pool.num_free)
            tables.append([pool.allocate() for _ in range(size)])
        if number % 1000 == 0:
            pool.check_integrity(tables)
            assert pool.num_used == len({block for table in tables for block in table})
    pool.check_integrity(tables)
    for table in tables:
        pool.release_all(table)
    assert pool.num_free == 500
    pool.check_integrity([])


def test_misuse_is_an_assertion() -> None:
    """Freeing twice, sharing a free block and allocating from nothing are caught."""
    pool = BlockPool(1)
    block = pool.allocate(2)
    with pytest.raises(AssertionError, match="no block of 1 is free"):
        pool.allocate()
    pool.release(block)
    pool.release(block)
    with pytest.raises(AssertionError, match="freed twice"):
        pool.release(block)
    with pytest.raises(AssertionError, match="cannot be shared"):
        pool.share(block)
    with pytest.raises(AssertionError, match="cannot be shared"):
        pool.share_all([block])


@pytest.mark.parametrize(
    ("tables", "problem"),
    [([[0]], "differ"), ([[0, 0], [1]], "differ"), ([], "differ")],
)
def test_integrity_check_finds_wrong_counts(tables: list[list[int]], problem: str) -> None:
    """Block 0 is referenced twice: any other set of tables is refused."""
    pool = BlockPool(3)
    pool.allocate(2)
    pool.check_integrity([[0], [0]])
    with pytest.raises(AssertionError, match=problem):
        pool.check_integrity(tables)


def test_integrity_check_finds_lost_and_doubled_blocks() -> None:
    """The free list itself is checked."""
    pool = BlockPool(3)
    free = pool._free
    lost = free.pop()
    with pytest.raises(AssertionError, match="lost"):
        pool.check_integrity([])
    free += [lost, lost]
    with pytest.raises(AssertionError, match="twice"):
        pool.check_integrity([])


def test_many_blocks_are_taken_at_once_or_not_at_all() -> None:
    pool = BlockPool(5)
    blocks = pool.allocate_many(3, references=2)
    assert len(set(blocks)) == 3
    assert pool.allocate_many(0) == []
    pool.check_integrity([blocks, blocks])
    with pytest.raises(AssertionError, match="3 blocks of 5 are not free"):
        pool.allocate_many(3)
    pool.check_integrity([blocks, blocks])
