"""Astra's policy (paper, sections 4.5 and 5): first come first served, preempting the latest."""

from __future__ import annotations

from bisect import bisect_right, insort

from engines.astra.block_manager import BlockManager
from engines.astra.growth import GrowthCalendar
from engines.core.batch import Batch
from engines.core.config import EngineConfig, Preemption
from engines.core.errors import UserError
from engines.core.request import Sequence, SequenceGroup, Status
from engines.core.scheduler import BY_ARRIVAL, Scheduler
from engines.core.subclassing import mypyc_attr


@mypyc_attr(allow_interpreted_subclasses=True)
class AstraScheduler(Scheduler):
    """Runs as many groups as there are blocks for, and preempts groups when blocks run out.

    The original checks in every step, for all groups, whether each can append. While there are so
    many free blocks that every check would succeed, only the groups that need a block in this step
    are visited (see `GrowthCalendar`). Otherwise that loop runs and decides which to preempt.
    """

    def __init__(self, config: EngineConfig, kv: BlockManager) -> None:
        super().__init__(config, kv)
        self.blocks = kv
        self.swapped: list[SequenceGroup] = []  # in arrival order
        self._growth = GrowthCalendar(config.block_size)
        self._largest_group = 0  # most sequences of any group so far

    def add(self, group: SequenceGroup) -> None:
        """Queue a new group; raises UserError if it could never finish."""
        super().add(group)
        self._largest_group = max(self._largest_group, group.request.sampling.n)

    @property
    def has_work(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self.running or self.waiting or self.swapped)

    def check_request(self, group: SequenceGroup) -> None:
        """Check the common limits, and that a group that may be recomputed fits into one batch."""
        super().check_request(group)
        request, limit = group.request, self.config.max_batched_tokens
        longest = request.prompt_len + request.output_len - 1
        if self._recomputes(group) and longest > limit:
            raise UserError(
                f"request {request.request_id}: recomputing {longest} tokens would "
                f"exceed {limit} per batch: raise --max-batched-tokens or use "
                "--preemption swap"
            )

    def schedule(self, step: int) -> Batch:
        """Give running groups their slots, then resume swapped ones, then admit new ones."""
        batch = self.batch
        batch.begin(step)
        self._reserve_slots(step)
        if self.swapped and not batch.swap_out:
            self._resume(step)
        batch.fix_decodes()
        batch.shared_blocks = self.blocks.num_shared
        if self.waiting and self._may_fit and not self.swapped:
            self._admit()
        if not self.running and self.has_work:
            self._refuse()
        return batch

    def fork(self, group: SequenceGroup, parents: tuple[int, ...]) -> None:
        """Share the parents' blocks, and note that the group's next write may copy one."""
        super().fork(group, parents)
        self._growth.sharing[group] = None

    def stop(self, group: SequenceGroup, sequences: list[Sequence]) -> None:
        """End sequences, and remove a group that has ended from the calendar."""
        super().stop(group, sequences)
        if not group.running:
            self._growth.remove(group)

    def _reserve_slots(self, step: int) -> None:
        growing = self._growth.growing(step)
        sharing = self._growth.take_sharing(step)
        needed = sum([len(group.running) for group in (*growing, *sharing)])
        if self.blocks.pool.num_free - needed < self._largest_group and self.running:
            self._reserve_or_preempt([*growing, *sharing], step)
            return
        if growing:
            self.blocks.grow(growing, self.batch)
        for group in sharing:
            self.blocks.unshare(group, self.batch)

    def _reserve_or_preempt(self, growing: list[SequenceGroup], step: int) -> None:
        """Do the same as the original's loop over all groups: in order of arrival, a group that
        cannot append preempts the latest group until it can, or is preempted if it is the latest.

        Whether a group can append changes only when another group takes blocks. With
        `_largest_group` free blocks every group can, so the loop skips to the next growing group.
        """
        pool, running = self.blocks.pool, self.running
        growing.sort(key=BY_ARRIVAL)
        before: SequenceGroup | None = None
        for target in [*growing, None]:
            index = 0
            if before is not None and pool.num_free < self._largest_group:
                index = bisect_right(running, before.order, key=BY_ARRIVAL)
            while pool.num_free < self._largest_group and index < len(running):
                group = running[index]
                if not self.blocks.can_append(group):
                    self._preempt(running[-1], step)
                elif group is target:
                    break
                else:
                    index += 1
            if target is None or target.status is not Status.RUNNING:
                return
            self.blocks.append(target, target.context_len(step), self.batch)
            before = target

    def _refuse(self) -> None:
        """Raise UserError: nothing runs, and registered prefixes leave no room for the group."""
        group = (self.swapped or self.waiting)[0]
        raise UserError(
            f"request {group.request.request_id} does not fit beside "
            f"{self.blocks.num_prefix_blocks} blocks of shared prefixes: raise --kv-slots"
        )

    def _start(self, group: SequenceGroup, length: int) -> None:
        super()._start(group, length)
        if len(group.running) > 1:
            self._growth.sharing[group] = None

    def _join(self, group: SequenceGroup, context_len: int) -> None:
        super()._join(group, context_len)
        self._growth.add(group)

    def _recomputes(self, group: SequenceGroup) -> bool:
        """Groups of several sequences are swapped: recomputing would lose their sharing."""
        return group.request.sampling.n == 1 and self.config.preemption is not Preemption.SWAP

    def _preempt(self, group: SequenceGroup, step: int) -> None:
        group.next_len = group.context_len(step)
        group.preempted_step = step
        group.num_preemptions += 1
        self.num_preemptions += 1
        self.batch.leave(group, group.running)
        self.running.remove(group)
        self._growth.remove(group)
        self._may_fit = True
        if self._recomputes(group):
            for sequence in group.running:
                self.blocks.free(sequence)
            group.running = []
            group.status = Status.WAITING
            self.waiting.appendleft(group)
        else:
            self.blocks.swap_out(group, self.batch)
            group.status = Status.SWAPPED
            insort(self.swapped, group, key=BY_ARRIVAL)

    def _resume(self, step: int) -> None:
        """Swap groups in, earliest first, while they fit; they decode in this step already."""
        while self.swapped:
            group = self.swapped[0]
            if (
                group.preempted_step == step
                or self.batch.num_seqs + len(group.running) > self.config.max_num_seqs
                or not self.blocks.can_swap_in(group)
            ):
                return
            self.swapped.pop(0)
            self.blocks.swap_in(group, self.batch)
            self._join(group, group.next_len)
            self.blocks.append(group, group.next_len, self.batch)
