"""What all scheduling policies share: queues, admission, and a calendar of finishing groups."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import insort
from collections import deque
from operator import attrgetter

from engines.core.batch import Batch, Prompt
from engines.core.config import EngineConfig
from engines.core.errors import UserError
from engines.core.kv import KVManager
from engines.core.request import Sequence, SequenceGroup, Status
from engines.core.subclassing import mypyc_attr

BY_ARRIVAL = attrgetter("order")  # the key of a group: first come, first served


@mypyc_attr(allow_interpreted_subclasses=True)
class Scheduler(ABC):
    """Decides at each step which groups run, first come, first served.

    Output lengths are forced, so a group's last step is known when it joins the batch: the group is
    filed under that step and not checked before. The entry of a group preempted meanwhile is
    ignored, because its status or its `last_step` no longer matches.
    """

    shares_prompts = True  # whether a group's sequences compute their prompt once for all

    def __init__(self, config: EngineConfig, kv: KVManager) -> None:
        self.config = config
        self.kv = kv
        self.batch = Batch()
        self.waiting: deque[SequenceGroup] = deque()
        self.running: list[SequenceGroup] = []
        self.num_preemptions = 0
        # Whether memory was freed since a group did not fit; if not, trying again is useless.
        self._may_fit = True
        self._finish_at: dict[int, list[SequenceGroup]] = {}

    def check_request(self, group: SequenceGroup) -> None:
        """Raise UserError for a request that this engine could never finish."""
        request, config = group.request, self.config
        total = request.prompt_len + request.output_len
        name = f"request {request.request_id}"
        if request.prompt_len < 1 or request.output_len < 1:
            raise UserError(
                f"{name}: prompt and output must have at least 1 token, got "
                f"{request.prompt_len} and {request.output_len}"
            )
        if total > config.max_model_len:
            raise UserError(
                f"{name}: {request.prompt_len} + {request.output_len} tokens exceed "
                f"the model's context of {config.max_model_len}: shorten it"
            )
        if (tokens := self._batched_tokens(group)) > config.max_batched_tokens:
            raise UserError(
                f"{name}: {tokens} prompt tokens exceed {config.max_batched_tokens} per batch: "
                "raise --max-batched-tokens"
            )
        if request.sampling.n > config.max_num_seqs:
            raise UserError(
                f"{name}: {request.sampling.n} sequences exceed the limit of "
                f"{config.max_num_seqs}: raise --max-num-seqs"
            )
        self.kv.check_request(request)

    def add(self, group: SequenceGroup) -> None:
        """Queue a new group; raises UserError if it could never finish."""
        self.check_request(group)
        self.waiting.append(group)

    @property
    def has_work(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self.running or self.waiting)

    @abstractmethod
    def schedule(self, step: int) -> Batch:
        """Decide which groups run in this step; returns the batch with its changes."""

    def finish_due(self, step: int) -> list[SequenceGroup]:
        """End the groups that got their last token in this step, and free their memory."""
        due = self._finish_at.pop(step, None)
        if due is None:
            return []
        finished = [g for g in due if g.status is Status.RUNNING and g.last_step == step]
        for group in finished:
            self.stop(group, group.running)
        return finished

    def stop(self, group: SequenceGroup, sequences: list[Sequence]) -> None:
        """End some running sequences of a group, and the group with the last of them."""
        self._may_fit = True
        self.batch.leave(group, sequences)
        for sequence in sequences:
            sequence.finished = True
            self.kv.free(sequence)
        group.running = [s for s in group.running if not s.finished]
        group.num_unfinished = len(group.running)
        if not group.running:
            group.status = Status.FINISHED
            self.running.remove(group)

    def fork(self, group: SequenceGroup, parents: tuple[int, ...]) -> None:
        """Let beams continue other beams: `parents[i]` is the beam that number i continues."""
        self.kv.fork(group, parents, self.batch)
        self._may_fit = True

    def _copies(self, group: SequenceGroup) -> int:
        return 1 if self.shares_prompts else group.request.sampling.n

    def _batched_tokens(self, group: SequenceGroup) -> int:
        """Tokens that count towards the batch's limit: the prompt, or one per sequence if more."""
        return max(group.next_len * self._copies(group), group.num_unfinished)

    def _last_step(self, group: SequenceGroup) -> int:
        request = group.request
        return group.start_step + request.prompt_len + request.output_len - 1 - group.start_len

    def _join(self, group: SequenceGroup, context_len: int) -> None:
        group.status = Status.RUNNING
        self.batch.join(group, context_len)
        if not self.running or self.running[-1].order < group.order:
            self.running.append(group)
        else:
            insort(self.running, group, key=BY_ARRIVAL)
        group.last_step = self._last_step(group)
        self._finish_at.setdefault(group.last_step, []).append(group)

    def _admit(self) -> None:
        """Admit waiting groups in order until one does not fit (no overtaking)."""
        batch, config = self.batch, self.config
        num_tokens = batch.num_seqs
        while self.waiting:
            group = self.waiting[0]
            length = group.next_len
            tokens = self._batched_tokens(group)
            if (
                group.preempted_step == batch.step
                or num_tokens + tokens > config.max_batched_tokens
                or batch.num_seqs + group.num_unfinished > config.max_num_seqs
            ):
                return
            if not self.kv.can_admit(group, length):
                self._may_fit = False
                return
            self.waiting.popleft()
            num_tokens += tokens
            self._start(group, length)

    def _start(self, group: SequenceGroup, length: int) -> None:
        group.start()
        cached = self.kv.admit(group, length)
        self.batch.prompts.append(Prompt(group, length, cached, self._copies(group)))
        self._join(group, length)
