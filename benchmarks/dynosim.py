"""One simulation by DynoSim, in its own environment: a job as JSON on stdin, a result on stdout."""

from __future__ import annotations

import importlib
import json
import sys

job = json.load(sys.stdin)
core = importlib.import_module("dynamo._core")
replay = importlib.import_module("dynamo.replay")
report = replay.run_trace_replay(
    job["trace"],
    extra_engine_args=core.MockEngineArgs.from_json(json.dumps(job["engine"])),
    trace_block_size=job["engine"]["block_size"],
)
print(
    json.dumps(
        {
            "seconds": report["wall_time_ms"] / 1e3,
            "tokens": report["total_output_tokens"],
            "simulated_s": report["duration_ms"] / 1e3,
        }
    )
)
