"""Orca's policy: iteration-level batching, first come first served, no preemption (section 6.1)."""

from __future__ import annotations

from engines.core.batch import Batch
from engines.core.scheduler import Scheduler
from engines.core.subclassing import mypyc_attr


@mypyc_attr(allow_interpreted_subclasses=True)
class OrcaScheduler(Scheduler):
    """Admits while reservations fit; whoever runs has memory to its end."""

    shares_prompts = False

    def schedule(self, step: int) -> Batch:
        """Continue all that run, then admit new groups."""
        batch = self.batch
        batch.begin(step)
        batch.fix_decodes()
        if self.waiting and self._may_fit:
            self._admit()
        return batch
