"""The buddy allocator: chunks tile the slots, merge back, and `can_allocate` never lies."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engines.orca.buddy import BuddyAllocator


def try_allocate(allocator: BuddyAllocator, size: int, count: int) -> bool:
    """Whether `count` chunks can be taken from a copy, one after another."""
    trial = copy.deepcopy(allocator)
    for _ in range(count):
        if not trial.can_allocate(size):
            return False
        trial.allocate(size)
        trial.check_integrity()
    return True


def rounded(size: int) -> int:
    """The least power of two that is at least `size`."""
    power = 1
    while power < size:
        power *= 2
    return power


def has_chunk(allocator: BuddyAllocator, held: dict[int, int], size: int) -> bool:
    """Whether an aligned run of `size` slots is free, by looking at every slot."""
    busy = np.zeros(allocator.num_slots, dtype=bool)
    for start, length in held.items():
        busy[start : start + length] = True
    chunk = rounded(size)
    starts = range(0, allocator.num_slots - chunk + 1, chunk)
    return any(not busy[start : start + chunk].any() for start in starts)


class BuddyMachine(RuleBasedStateMachine):
    """`held` maps an allocated chunk's start to its size."""

    @initialize(num_slots=st.integers(1, 200))
    def create(self, num_slots: int) -> None:
        self.allocator = BuddyAllocator(num_slots)
        self.empty = copy.deepcopy(self.allocator._free)
        self.held: dict[int, int] = {}

    @rule(size=st.integers(1, 220), count=st.integers(1, 5))
    def compare_with_trial(self, size: int, count: int) -> None:
        expected = try_allocate(self.allocator, size, count)
        assert self.allocator.can_allocate(size, count) == expected
        assert self.allocator.can_allocate(size) == has_chunk(self.allocator, self.held, size)

    @rule(size=st.integers(1, 64))
    def allocate(self, size: int) -> None:
        if not self.allocator.can_allocate(size):
            with pytest.raises(AssertionError, match="is free"):
                self.allocator.allocate(size)
            return
        start = self.allocator.allocate(size)
        chunk = rounded(size)
        assert start % chunk == 0, "not aligned"
        assert start + chunk <= self.allocator.num_slots
        for other, length in self.held.items():
            assert start + chunk <= other or other + length <= start, "overlap"
        self.held[start] = chunk

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        start = data.draw(st.sampled_from(sorted(self.held)))
        self.allocator.free(start)
        del self.held[start]
        with pytest.raises(AssertionError, match="no chunk is allocated"):
            self.allocator.free(start)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "allocator"):
            return
        self.allocator.check_integrity()
        assert self.allocator.num_free == self.allocator.num_slots - sum(self.held.values())

    def teardown(self) -> None:
        if hasattr(self, "allocator"):
            for start in self.held:
                self.allocator.free(start)
            assert self.allocator._free == self.empty, "chunks did not merge back"


TestBuddyMachine = BuddyMachine.TestCase
TestBuddyMachine.settings = settings(
    deadline=None, derandomize=True, max_examples=50, stateful_step_count=30
)


@pytest.mark.parametrize("num_slots", [15_700, 16_384])
def test_hundred_thousand_random_operations(num_slots: int) -> None:
    """Requests of ShareGPT's sizes come and go; when all are gone the first state is back."""
    random = np.random.default_rng(1)
    allocator = BuddyAllocator(num_slots)
    initial = copy.deepcopy(allocator._free)
    held: dict[int, int] = {}
    draws = random.random((100_000, 2)).tolist()
    sizes = random.integers(1, 2049, size=100_000).tolist()
    for number, (kind, which) in enumerate(draws):
        if kind < 0.5 and allocator.can_allocate(sizes[number]):
            held[allocator.allocate(sizes[number])] = rounded(sizes[number])
        elif held:
            start = list(held)[int(which * len(held))]
            allocator.free(start)
            del held[start]
        assert allocator.num_free == num_slots - sum(held.values())
        if number % 500 == 0:
            allocator.check_integrity()
    for start in held:
        allocator.free(start)
    assert allocator._free == initial
    allocator.check_integrity()


@settings(deadline=None, derandomize=True)
@given(st.integers(1, 100_000))
def test_top_level_chunks_are_the_binary_digits(num_slots: int) -> None:
    """Slots that are no power of two are cut without loss into aligned chunks."""
    allocator = BuddyAllocator(num_slots)
    allocator.check_integrity()
    largest = 1 << (num_slots.bit_length() - 1)
    assert allocator.can_allocate(largest)
    assert not allocator.can_allocate(largest + 1)
    assert allocator.can_allocate(1, num_slots)
    assert not allocator.can_allocate(1, num_slots + 1)


def test_integrity_check_finds_damage() -> None:
    """Lost slots, slots held twice, unmerged buddies and a wrong count are each refused."""
    allocator = BuddyAllocator(8)
    allocator._free[3].clear()
    with pytest.raises(AssertionError, match="chunks end at 0"):
        allocator.check_integrity()
    allocator._free[2] = {0: None, 4: None}
    with pytest.raises(AssertionError, match="not merged"):
        allocator.check_integrity()
    allocator._free[2] = {0: None}
    with pytest.raises(AssertionError, match="chunks end at 4"):
        allocator.check_integrity()
    allocator._allocated = {4: 2}
    with pytest.raises(AssertionError, match="counted free"):
        allocator.check_integrity()
    allocator._allocated = {0: 2, 4: 2}
    with pytest.raises(AssertionError, match="held twice"):
        allocator.check_integrity()
