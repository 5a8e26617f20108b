"""Astra's policy (paper, sections 4.5 and 5): first come first served, preempting the latest."""

from __future__ import annotations

from bisect import bisect_right, insort

from engines.astra.block_manager import BlockManager
from engines.core.batch import Batch
from engines.core.config import EngineConfig, Preemption
from engines.core.errors import UserError
from engines.core.request import SequenceGroup, Status
from engines.core.scheduler import Scheduler


class AstraScheduler(Scheduler):
    """Runs as many groups as there are blocks for; takes blocks back when they run out.

    Groups that need a block are filed under the step in which they do. While enough blocks are
    free for every check of the original's loop over all groups to succeed, only those are
    visited; otherwise the loop itself runs and decides whom to preempt.
    """

    kv: BlockManager

    def __init__(self, config: EngineConfig, kv: BlockManager) -> None:
        super().__init__(config, kv)
        self.kv = kv
        self.swapped: list[SequenceGroup] = []  # in arrival order
        self._grow_at: dict[int, list[SequenceGroup]] = {}
        self._largest_group = 0  # most sequences of any group so far

    def add(self, group: SequenceGroup) -> None:
        """Queue a new group; raises UserError if it could never finish."""
        super().add(group)
        self._largest_group = max(self._largest_group, len(group.sequences))

    @property
    def has_work(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self.running or self.waiting or self.swapped)

    def check_request(self, group: SequenceGroup) -> None:
        """Besides the common limits: a group that may be recomputed must fit a batch whole."""
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
        if self.waiting and self._may_fit and not self.swapped:
            self._admit()
        if not self.running and self.has_work:
            self._refuse()
        return batch

    def fork(self, group: SequenceGroup, parents: list[int]) -> None:
        """Besides sharing the parents' blocks: look at the group's next write for a copy."""
        super().fork(group, parents)
        self._file_growth(group, self.batch.step + 1)

    def _reserve_slots(self, step: int) -> None:
        growing = self._due_growth(step)
        needed = sum([len(g.running) for g in growing]) if growing else 0
        if self.kv.pool.num_free - needed < self._largest_group and self.running:
            self._reserve_or_preempt(growing, step)
        else:
            for group in growing:
                self._append(group, step)

    def _due_growth(self, step: int) -> list[SequenceGroup]:
        filed = self._grow_at.pop(step, None)
        if filed is None:
            return []
        return [
            g for g in dict.fromkeys(filed) if g.grow_step == step and g.status is Status.RUNNING
        ]

    def _reserve_or_preempt(self, growing: list[SequenceGroup], step: int) -> None:
        """Do what the original's loop over all groups does: in order, a group that could not
        append preempts the latest one until it could, or goes itself if it is the latest.

        Whether a group could append changes only where another one takes blocks. With
        `_largest_group` blocks free every group could, so the loop skips to the next that grows.
        """
        pool, running = self.kv.pool, self.running
        growing.sort(key=SequenceGroup.order)
        index = 0
        for target in [*growing, None]:
            while pool.num_free < self._largest_group and index < len(running):
                group = running[index]
                if not self.kv.can_append(group):
                    self._preempt(running[-1], step)
                elif group is target:
                    break
                else:
                    index += 1
            if target is None or target.status is not Status.RUNNING:
                return
            self._append(target, step)
            index = bisect_right(running, target.order(), lo=index, key=SequenceGroup.order)

    def _refuse(self) -> None:
        """An empty cache without room for the next group: prefixes that came after it fill it."""
        group = (self.swapped or self.waiting)[0]
        raise UserError(
            f"request {group.request.request_id} does not fit beside "
            f"{self.kv.num_prefix_blocks} blocks of shared prefixes: raise --kv-slots"
        )

    def _append(self, group: SequenceGroup, step: int) -> None:
        context_len = group.start_len + step - group.start_step
        self.kv.append(group, context_len, self.batch)
        self._file_growth(group, step + self._steps_to_next_block(context_len))

    def _file_growth(self, group: SequenceGroup, step: int) -> None:
        group.grow_step = step
        if step <= group.last_step:
            self._grow_at.setdefault(step, []).append(group)

    def _join(self, group: SequenceGroup, context_len: int) -> None:
        super()._join(group, context_len)
        step = self.batch.step
        if len(group.running) > 1:
            self._file_growth(group, step + 1)  # the last block is shared: the next write copies it
        else:
            self._file_growth(group, step + self._steps_to_next_block(context_len))

    def _steps_to_next_block(self, context_len: int) -> int:
        """Steps until a sequence that holds `context_len` tokens writes the first of a block."""
        block_size = self.config.block_size
        return block_size - (context_len - 1) % block_size

    def _recomputes(self, group: SequenceGroup) -> bool:
        """Groups of several sequences are swapped: recomputing would lose what they share."""
        return len(group.sequences) == 1 and self.config.preemption is not Preemption.SWAP

    def _preempt(self, group: SequenceGroup, step: int) -> None:
        group.next_len = group.context_len(step)
        group.preempted_step = step
        group.num_preemptions += 1
        self.num_preemptions += 1
        self.batch.leave(group, group.running)
        self.running.remove(group)
        self._may_fit = True
        if self._recomputes(group):
            for sequence in group.running:
                self.kv.free(sequence)
            group.running = []
            group.status = Status.WAITING
            self.waiting.appendleft(group)
        else:
            self.kv.swap_out(group, self.batch)
            group.status = Status.SWAPPED
            insort(self.swapped, group, key=SequenceGroup.order)

    def _resume(self, step: int) -> None:
        """Swap groups in, earliest first, while they fit; they decode in this very step."""
        while self.swapped:
            group = self.swapped[0]
            if (
                group.preempted_step == step
                or self.batch.num_seqs + len(group.running) > self.config.max_num_seqs
                or not self.kv.can_swap_in(group)
            ):
                return
            self.swapped.pop(0)
            self.kv.swap_in(group, self.batch)
            self._join(group, group.next_len)
            self._append(group, step)
