"""The one loop of all systems and backends: schedule, execute, record, commit."""

from __future__ import annotations

from typing import NamedTuple

from engines.core.clock import Clock
from engines.core.executor import Executor, RemoteExecutor, StepResult
from engines.core.request import Request, SequenceGroup, Status
from engines.core.scheduler import Scheduler
from engines.core.stats import StepRecorder

_NOBODY: list[SequenceGroup] = []  # never added to


class _Undated(NamedTuple):
    """Groups that got their first and last token in a step whose end is not known yet."""

    starting: list[SequenceGroup]
    ending: list[SequenceGroup]


class Engine:
    """Serves requests step by step. What distinguishes systems is in the scheduler it is given."""

    def __init__(
        self, scheduler: Scheduler, executor: Executor, clock: Clock, *, recorder: StepRecorder
    ) -> None:
        self.scheduler = scheduler
        self.executor = executor
        self.clock = clock
        self.recorder = recorder
        self.num_steps = 0
        self._remote = executor if isinstance(executor, RemoteExecutor) else None
        self._undated: _Undated | None = None  # of the step that is under way
        if self._remote is not None:
            self._remote.follow(scheduler.kv)

    @property
    def has_work(self) -> bool:
        """Whether any request is unfinished."""
        return self.scheduler.has_work or self._undated is not None

    def add_request(self, request: Request) -> SequenceGroup:
        """Queue a request; raises UserError if it could never be served."""
        group = SequenceGroup(request)
        self.scheduler.add(group)
        return group

    def step(self) -> list[SequenceGroup]:
        """Run one iteration; returns the groups that finished in it.

        While a remote executor has a step under way that decides nothing, the next call schedules
        and starts the next step; what finished in the former is returned then.
        """
        scheduler, clock, remote = self.scheduler, self.clock, self._remote
        if self._undated is not None and not scheduler.has_work:
            assert remote is not None, "only remote executors leave steps under way"
            remote.finish()
            return self._date_last()
        step = self.num_steps
        started_s = clock.now
        batch = scheduler.schedule(step)
        result = self.executor.execute(batch)
        earlier, ahead = _NOBODY, False
        if remote is not None:
            earlier, ahead = self._date_last(), not batch.decides
            if not ahead:
                result = remote.finish()
        clock.advance(result.elapsed_s)
        self.recorder.record(started_s, len(scheduler.running), scheduler.kv, batch)
        starting = [prompt.group for prompt in batch.prompts] if batch.prompts else _NOBODY
        batch.clear_changes()
        self.num_steps = step + 1
        ending = self._commit(step, result)
        if ahead:
            self._undated = _Undated(starting, ending)
            return earlier
        if starting or ending:
            self._date(starting, ending)
        return earlier + ending if earlier else ending

    def _date_last(self) -> list[SequenceGroup]:
        last, self._undated = self._undated, None
        return [] if last is None else self._date(*last)

    def _date(
        self, starting: list[SequenceGroup], ending: list[SequenceGroup]
    ) -> list[SequenceGroup]:
        """Note when groups got their first and last token: now."""
        now = self.clock.now
        for group in starting:
            if group.first_token_s is None:
                group.first_token_s = now
        for group in ending:
            group.finish_s = now
        return ending

    def _commit(self, step: int, result: StepResult) -> list[SequenceGroup]:
        """End, stop and fork what the step ended, stopped and forked; returns who finished."""
        scheduler = self.scheduler
        finished = scheduler.finish_due(step)
        for sequence in result.stopped:
            if not sequence.finished:
                scheduler.stop(sequence.group, [sequence])
                if not sequence.group.running:
                    finished.append(sequence.group)
        for fork in result.forks:
            if fork.group.status is Status.RUNNING:
                scheduler.fork(fork.group, fork.parents)
        return finished
