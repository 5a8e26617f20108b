"""When each request of a point got its first and its last token."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.workloads.build import Workload
from engines.core.request import SequenceGroup


class RequestLog:
    """When each request got its first and its last token."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self.first_token_s = np.full(len(workload), np.nan)
        self.finish_s = np.full(len(workload), np.nan)
        self.preemptions = np.zeros(len(workload), dtype=np.int32)
        self.num_finished = 0

    def add(self, group: SequenceGroup) -> None:
        """Record a finished request."""
        index = group.request.request_id
        assert group.first_token_s is not None
        assert group.finish_s is not None
        self.first_token_s[index] = group.first_token_s
        self.finish_s[index] = group.finish_s
        self.preemptions[index] = group.num_preemptions
        self.num_finished += 1

    def columns(self) -> dict[str, NDArray[Any]]:
        """All requests as columns, in order of arrival."""
        return {
            "request_id": np.arange(len(self._workload), dtype=np.int32),
            "arrival_s": self._workload.arrival_s,
            "input_len": self._workload.input_len,
            "output_len": self._workload.output_len,
            "first_token_s": self.first_token_s,
            "finish_s": self.finish_s,
            "preemptions": self.preemptions,
        }
