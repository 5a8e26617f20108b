"""The one loop of all systems and backends: schedule, execute, record, commit."""

from __future__ import annotations

from engines.core.clock import Clock
from engines.core.executor import Executor, StepResult
from engines.core.request import Request, SequenceGroup, Status
from engines.core.scheduler import Scheduler
from engines.core.stats import StepRecorder


class Engine:
    """Serves requests step by step. Systems differ only in the scheduler passed in."""

    def __init__(
        self, scheduler: Scheduler, executor: Executor, clock: Clock, *, recorder: StepRecorder
    ) -> None:
        self.scheduler = scheduler
        self.executor = executor
        self.clock = clock
        self.recorder = recorder
        self.num_steps = 0

    @property
    def has_work(self) -> bool:
        """Whether any request is unfinished."""
        return self.scheduler.has_work

    def add_request(self, request: Request) -> SequenceGroup:
        """Queue a request; raises UserError if it could never be served."""
        group = SequenceGroup(request)
        self.scheduler.add(group)
        return group

    def step(self) -> list[SequenceGroup]:
        """Run one iteration; returns the groups that finished in it."""
        scheduler, clock = self.scheduler, self.clock
        step = self.num_steps
        started_s = clock.now
        batch = scheduler.schedule(step)
        result = self.executor.execute(batch)
        clock.advance(result.elapsed_s)
        self.recorder.record(started_s, len(scheduler.running), scheduler.kv, batch)
        for prompt in batch.prompts:
            if prompt.group.first_token_s is None:
                prompt.group.first_token_s = clock.now
        batch.clear_changes()
        self.num_steps = step + 1
        return self._commit(step, result)

    def _commit(self, step: int, result: StepResult) -> list[SequenceGroup]:
        """Apply the step's endings, stops and forks; returns the groups that finished."""
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
        for group in finished:
            group.finish_s = self.clock.now
        return finished
