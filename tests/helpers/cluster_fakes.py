"""What nodes run in tests: real points that take a while, and one that kills its process once."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from bench.point.platform import Progress
from bench.point.serve import Outcome, run_point
from bench.point.spec import PointSpec

MARKS = "SWEEP_TEST_MARKS"  # names a folder; nodes inherit it from the test that starts them
CRASHING_SEED = 7


def slowly(spec: PointSpec, *, on_progress: Progress | None = None) -> Outcome:
    """The point, in a second and a half more; the first such point's process dies at once.

    Its mark holds the id of the node on which it runs. No point goes on before both nodes have one,
    however much slower one of them starts its worker.
    """
    import ray

    marks = Path(os.environ[MARKS])
    mark, node = marks / f"run-{spec.seed}", ray.get_runtime_context().get_node_id()
    first = not mark.exists()
    mark.write_text(node)
    (marks / f"node-{node}").touch()
    if first and spec.seed == CRASHING_SEED:
        os.kill(os.getpid(), signal.SIGKILL)
    while len(list(marks.glob("node-*"))) < 2:
        time.sleep(0.05)
    for share in (0.2, 0.6, 0.9):
        time.sleep(0.5)
        if on_progress is not None:
            on_progress(share)
    return run_point(spec, on_progress=on_progress)
