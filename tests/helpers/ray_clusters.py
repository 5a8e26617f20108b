"""Ray clusters in processes of their own: Ray reads some of its settings once in a process."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from processes import started

# Ray's agents outlive a head that was killed by a minute, in which they try to report its end to it
# (ray/_private/utils.py, publish_error_to_driver). One test waits for them, in test_ray_session.py.
AGENTS = re.compile(r"ray::\w+Agent|/agent(\.py|/main\.py)")

_HOLD = """
import os, sys, time
from engines.execution.ray_session import ray_session
with ray_session("local", num_cpus=int(sys.argv[1])):
    import ray
    print(ray.get_runtime_context().gcs_address, os.environ["RAY_AUTH_TOKEN"], flush=True)
    time.sleep(600)
"""


@dataclass(frozen=True)
class Held:
    """A cluster that another process holds: that process, the address, and what lets others in."""

    pid: int
    address: str
    environment: dict[str, str]


@contextmanager
def held_cluster(num_cpus: int = 1) -> Iterator[Held]:
    with started([sys.executable, "-c", _HOLD, str(num_cpus)]) as process:
        assert process.stdout is not None
        address, token = process.stdout.readline().split()
        yield Held(process.pid, address, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token})
