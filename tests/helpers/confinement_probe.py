"""Run inside a container: prints as JSON what it may do there."""

import json
import os
import socket
from pathlib import Path


def attempt(action):
    try:
        action()
    except OSError as error:
        return error.strerror or str(error)
    return "done"


lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
status = dict(line.split(":", 1) for line in lines if ":" in line)
found = {
    "user": [os.getuid(), os.getgid()],
    "interfaces": sorted(name for _, name in socket.if_nameindex() if name != "lo"),
    "network": attempt(lambda: socket.create_connection(("192.0.2.1", 80), 3)),
    "root": attempt(lambda: Path("/file").touch()),
    "image": attempt(lambda: Path("/opt/venv/file").touch()),
    "work": attempt(lambda: Path("file").touch()),
    "temporary": attempt(lambda: Path("/tmp/file").write_text("x")),
    "results": attempt(lambda: Path("artifacts/file").write_text("x")),
    "capabilities": status["CapEff"].strip(),
    "new_privileges": status["NoNewPrivs"].strip(),
}
print(json.dumps(found))
