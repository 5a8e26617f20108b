"""The paged cache: a state machine over all that can happen to a group, and single situations."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from serving import make_config, make_request

from engines.astra.block_manager import BlockManager
from engines.core.batch import Batch
from engines.core.beams import place_children
from engines.core.errors import UserError
from engines.core.request import SequenceGroup, Status

PREFIX_LEN = 10


def make_manager(**values: Any) -> BlockManager:
    return BlockManager(make_config(**({"watermark": 0.0} | values)))


def admit(manager: BlockManager, prompt_len: int, **values: Any) -> SequenceGroup:
    """A group that holds its prompt."""
    group = SequenceGroup(make_request(values.pop("request_id", 0), prompt_len, 50, **values))
    group.start()
    group.status = Status.RUNNING
    manager.admit(group, prompt_len)
    return group


def tables(group: SequenceGroup) -> list[list[int]]:
    return [sequence.table for sequence in group.running]


def sharing(group: SequenceGroup) -> list[list[int]]:
    """Block tables with places renamed in order of appearance: who shares with whom."""
    names: dict[tuple[int, int], int] = {}
    return [
        [names.setdefault(place, len(names)) for place in enumerate(sequence.table)]
        for sequence in group.running
    ]


class ManagerMachine(RuleBasedStateMachine):
    """Groups grow one token at a time, each at its own pace; `lengths` holds their tokens."""

    @initialize(
        block_size=st.integers(1, 5), num_blocks=st.integers(12, 40), share_prefix=st.booleans()
    )
    def create(self, block_size: int, num_blocks: int, *, share_prefix: bool) -> None:
        self.manager = make_manager(
            num_slots=num_blocks * block_size, block_size=block_size, share_prefix=share_prefix
        )
        self.lengths: dict[SequenceGroup, int] = {}
        self.forked: set[SequenceGroup] = set()  # and not appended to since, as it must be
        self.next_id = 0

    def pick(self, data: st.DataObject, status: Status) -> SequenceGroup | None:
        groups = [group for group in self.lengths if group.status is status]
        return data.draw(st.sampled_from(groups)) if groups else None

    @rule(
        prompt_len=st.integers(1, 12),
        sampling=st.sampled_from(["n1", "n2", "beam3"]),
        prefixed=st.booleans(),
    )
    def admit(self, prompt_len: int, sampling: str, *, prefixed: bool) -> None:
        self.next_id += 1
        prompt_len += PREFIX_LEN if prefixed else 0
        prefix_len = PREFIX_LEN if prefixed else 0
        request = make_request(
            self.next_id, prompt_len, 50, sampling=sampling, prefix_len=prefix_len
        )
        group = SequenceGroup(request)
        if not self.manager.can_admit(group, prompt_len):
            return
        known = self.manager.num_prefix_blocks
        group.start()
        free = self.manager.pool.num_free
        cached = self.manager.admit(group, prompt_len)
        group.status = Status.RUNNING
        size = self.manager.block_size
        assert cached == (known * size if prefixed else 0)
        taken = free - self.manager.pool.num_free
        assert taken == -(-prompt_len // size) - cached // size
        self.lengths[group] = prompt_len

    @precondition(lambda self: self.lengths)
    @rule(data=st.data())
    def append(self, data: st.DataObject) -> None:
        group = self.pick(data, Status.RUNNING)
        if group is None or not self.manager.can_append(group):
            return
        manager, batch = self.manager, Batch()
        index, within = divmod(self.lengths[group], manager.block_size)
        old = [table[index] if within else None for table in tables(group)]
        self.lengths[group] += 1
        self.forked.discard(group)
        manager.append(group, self.lengths[group], batch)
        new = [table[index] for table in tables(group)]
        assert len(set(new)) == len(new), "two sequences would write one block"
        assert new == [sequence.blocks[-1] for sequence in group.running]
        assert len({id(sequence.blocks) for sequence in group.running}) == len(new)
        # Copy-on-write: of those who share a partly filled block, all but the last one copy it.
        writers = {block: old.count(block) for block in old if block is not None}
        copies = sum(count - 1 for count in writers.values())
        assert len(batch.copies) == copies
        if old[0] is not None:
            assert len(batch.changed) == copies, "a table changed without a copy"
        else:
            assert batch.changed == group.running

    @precondition(lambda self: self.lengths)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        group = self.pick(data, Status.RUNNING)
        if group is None or group in self.forked:
            return
        width, batch = len(group.running), Batch()
        drawn = data.draw(st.lists(st.integers(0, width - 1), min_size=width, max_size=width))
        parents = place_children(tuple(drawn)).parents
        self.forked.add(group)
        before = tables(group)
        self.manager.fork(group, parents, batch)
        assert tables(group) == [before[parent] for parent in parents]
        assert len(batch.forked) == sum(parent != i for i, parent in enumerate(parents))

    @precondition(lambda self: self.lengths)
    @rule(data=st.data())
    def swap_out(self, data: st.DataObject) -> None:
        group = self.pick(data, Status.RUNNING)
        if group is None or self.manager.swap_pool.num_free < len(set().union(*tables(group))):
            return
        batch, structure, before = Batch(), sharing(group), tables(group)
        prefix = {b for part in self.manager._prefixes.values() for b in part.blocks}
        self.manager.swap_out(group, batch)
        group.status = Status.SWAPPED
        assert sharing(group) == structure
        sources = [swap.source_block for swap in batch.swap_out]
        assert sorted(sources) == sorted({b for table in before for b in table} - prefix)

    @precondition(lambda self: self.lengths)
    @rule(data=st.data())
    def swap_in(self, data: st.DataObject) -> None:
        group = self.pick(data, Status.SWAPPED)
        if group is None or not self.manager.can_swap_in(group):
            return
        batch, structure = Batch(), sharing(group)
        self.manager.swap_in(group, batch)
        group.status = Status.RUNNING
        assert sharing(group) == structure
        targets = [swap.target_block for swap in batch.swap_in]
        assert len(set(targets)) == len(targets)

    @precondition(lambda self: self.lengths)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        group = self.pick(data, Status.RUNNING)
        if group is None:
            return
        for sequence in group.running:
            self.manager.free(sequence)
        group.status = Status.FINISHED
        del self.lengths[group]

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "manager"):
            return
        self.manager.check_integrity()
        size = self.manager.block_size
        for group, length in self.lengths.items():
            assert all(s.num_blocks == -(-length // size) for s in group.running)
        running = [group for group in self.lengths if group.status is Status.RUNNING]
        held = [block for group in running for table in tables(group) for block in table]
        read_again = len(held) - len(set(held))
        prefixes = {b for part in self.manager._prefixes.values() for b in part.blocks}
        assert self.manager.num_shared == max(0, read_again - len(prefixes - set(held)))

    def teardown(self) -> None:
        if not hasattr(self, "manager"):
            return
        for group in list(self.lengths):
            if group.status is Status.SWAPPED:
                continue
            for sequence in group.running:
                self.manager.free(sequence)
            del self.lengths[group]
        assert self.manager.pool.num_used == self.manager.num_prefix_blocks


TestManagerMachine = ManagerMachine.TestCase
TestManagerMachine.settings = settings(
    deadline=None, derandomize=True, max_examples=120, stateful_step_count=50
)


@pytest.mark.parametrize(("prompt_len", "copies"), [(3, 2), (4, 0), (5, 2), (8, 0)])
def test_copy_on_write_only_for_a_shared_partly_filled_block(prompt_len: int, copies: int) -> None:
    """With a full last block each takes a new one; else all but one copy it."""
    manager, batch = make_manager(), Batch()
    group = admit(manager, prompt_len, sampling="n3")
    last = tables(group)[0][-1]
    manager.append(group, prompt_len + 1, batch)
    assert len(batch.copies) == copies
    assert all(copy.source_slot == last * 4 and copy.num_tokens == 4 for copy in batch.copies)
    if copies:
        assert group.running[0].blocks[-1] == last, "one writes in place"
        targets = {copy.target_slot // 4 for copy in batch.copies}
        assert targets == {s.blocks[-1] for s in group.running[1:]}
    full = prompt_len // 4
    assert len({tuple(table[:full]) for table in tables(group)}) == 1, "full blocks stay shared"
    manager.check_integrity()


def test_prefix_is_computed_once_and_kept() -> None:
    """The first request registers whole blocks; later ones map them; nobody frees or swaps them."""
    manager, batch = make_manager(share_prefix=True), Batch()
    first = admit(manager, 14, prefix_len=PREFIX_LEN)
    prefix = first.running[0].table[:2]
    later = SequenceGroup(make_request(1, 12, 4, prefix_len=PREFIX_LEN, sampling="n2"))
    later.start()
    later.status = Status.RUNNING
    used = manager.pool.num_used
    assert manager.admit(later, 12) == 8, "two whole blocks of the prefix are cached"
    assert [table[:2] for table in tables(later)] == [prefix, prefix]
    assert manager.pool.num_used == used + 1
    manager.append(later, 13, batch)
    manager.swap_out(later, batch)
    later.status = Status.SWAPPED
    assert [table[:2] for table in tables(later)] == [prefix, prefix]
    assert not {swap.source_block for swap in batch.swap_out} & set(prefix)
    manager.check_integrity()
    manager.free(first.running[0])
    assert manager.pool.num_used == 2 == manager.num_prefix_blocks


def test_one_prompt_token_is_always_computed() -> None:
    """A prompt that is the prefix and nothing else still needs its last logits."""
    manager = make_manager(share_prefix=True)
    admit(manager, 8, prefix_len=8)
    again = SequenceGroup(make_request(1, 8, 4, prefix_len=8))
    again.start()
    assert manager.admit(again, 8) == 4


def test_prefixes_without_sharing_are_ignored() -> None:
    """`prefix_len` alone changes nothing."""
    manager = make_manager(share_prefix=False)
    admit(manager, 14, prefix_len=PREFIX_LEN)
    assert manager.num_prefix_blocks == 0


def test_prefixes_of_different_tokens_are_kept_apart() -> None:
    """With token ids known, prefixes of equal length are told apart by their content."""
    manager = make_manager(share_prefix=True)
    groups = []
    for index, token in enumerate((7, 8, 7)):
        ids = (token,) * 9
        groups.append(admit(manager, 9, request_id=index, prefix_len=8, prompt_token_ids=ids))
    blocks = [tables(group)[0][:2] for group in groups]
    assert blocks[0] == blocks[2] != blocks[1]
    assert manager.num_prefix_blocks == 4


def test_a_request_that_maps_a_prefix_does_not_need_it_twice() -> None:
    """A repeated request is accepted where the first one was, in a cache that holds just one."""
    manager = make_manager(num_slots=64, share_prefix=True)
    request = make_request(0, 40, 20, prefix_len=36)
    manager.check_request(request)
    group = admit(manager, 40, prefix_len=36)
    manager.check_request(request)
    with pytest.raises(UserError, match="may need"):
        manager.check_request(make_request(1, 40, 20))
    manager.free(group.running[0])


def test_watermark_is_kept_when_admitting_and_resuming() -> None:
    """Of 16 blocks 2 stay free: 14 may be admitted, and a group resumes with one to spare."""
    manager = make_manager(watermark=0.125)
    group = SequenceGroup(make_request(0, 60, 1))
    assert manager.can_admit(group, 56)
    assert not manager.can_admit(group, 57)
    batch = Batch()
    swapped = admit(manager, 8, request_id=1)
    manager.swap_out(swapped, batch)
    swapped.status = Status.SWAPPED
    admit(manager, 44, request_id=2)  # 5 free: 2 to swap in, 1 to append, 2 watermark
    assert manager.can_swap_in(swapped)
    admit(manager, 4, request_id=3)
    assert not manager.can_swap_in(swapped)


def test_append_needs_a_block_for_each_sequence() -> None:
    """The original's heuristic: as many free blocks as sequences, needed or not."""
    manager = make_manager()
    group = admit(manager, 57, sampling="n2")
    assert manager.pool.num_free == 1
    assert not manager.can_append(group)


def test_full_swap_pool_is_an_error_with_a_remedy() -> None:
    """Nothing is moved when the CPU pool is too small."""
    manager, batch = make_manager(swap_slots=4), Batch()
    group = admit(manager, 8)
    with pytest.raises(UserError, match=r"needs 2 swap blocks but 1 are free.*--swap-space"):
        manager.swap_out(group, batch)
    manager.check_integrity()
    assert not batch.swap_out


def test_fork_asserts_that_parents_survive() -> None:
    """A parent that is itself replaced would lose its blocks half way."""
    manager = make_manager()
    group = admit(manager, 4, sampling="beam3")
    with pytest.raises(AssertionError, match="did not survive"):
        manager.fork(group, (1, 2, 2), Batch())
