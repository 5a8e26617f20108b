"""A Ray cluster of this machine's own, in a process that outlives the command by seconds at most.

Ray leaves some of its processes behind for minutes when the program that started it is killed. So
a process of ours starts it, adopts whatever Ray's own processes leave behind, ends all of it and
removes its files once the pipe from the command closes, however the command went. Having a session
of its own, it does not hear the terminal's Ctrl-C, which is the command's to handle.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from engines.core.errors import UserError

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # as later versions do; else Ray warns of it
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # when ranks die, of those that nobody waits for any more
    # Nobody reads what Ray notes of tasks; to hand it to a dead head it would wait ten seconds.
    "RAY_task_events_shutdown_flush_timeout_ms": "200",
}
_OBJECT_STORE_BYTES = 256 << 20  # results are small, and a machine's shared memory may be too
_SET_CHILD_SUBREAPER = 36  # of Linux' prctl
_GRACE_S = 20.0
_READY, _FAILED = "ready ", "failed "
_ESSENTIAL = ("gcs_server", "raylet")
_LOOK_S = 0.5  # between looks at whether they live


class RayHead:
    """A running head, seen from the command. `address` is where to connect.

    It lets in who knows its token, which this process then does.
    """

    def __init__(self, num_cpus: int) -> None:
        """Start Ray; raises UserError with Ray's reason if that fails."""
        os.environ.update(_access())
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(num_cpus)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line.startswith(_READY):
            self.close()
            raise UserError(
                "Ray does not start on this machine: "
                f"{line.removeprefix(_FAILED) or 'its process ended without a word'}"
            )
        self.address = line.removeprefix(_READY)

    @property
    def is_running(self) -> bool:
        """Whether all of Ray is there; if a part of it dies, the rest is ended."""
        return self._process.poll() is None

    def close(self) -> None:
        """End Ray and all its processes."""
        for name in _access():
            os.environ.pop(name, None)
        with self._process as process:  # closes the pipes, then waits
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
        if process.returncode:  # it was killed, and could end nothing
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)


@functools.cache
def _access() -> dict[str, str]:
    """Settings that let Ray's processes know each other: a secret, unless the user has set one.

    One for all clusters of this process, since Ray reads it once.
    """
    if "RAY_AUTH_MODE" in os.environ:
        return {}
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def main(num_cpus: int) -> None:
    """Run a cluster until standard input ends."""
    _adopt_orphans()
    to_command = os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # Ray keeps logs of its own
        os.dup2(nowhere, stream)
    os.environ.update(SETTINGS)
    import ray

    orderly, session = True, ""
    try:
        context = ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        session = context.address_info["session_dir"]
        print(_READY + context.address_info["gcs_address"], file=to_command, flush=True)
        orderly = _await_end()
    except Exception as error:  # Ray has no type for what may go wrong here
        print(_FAILED + " ".join(str(error).split()), file=to_command, flush=True)
    finally:
        if orderly:
            ray.shutdown()
        _end_children()
        if session:
            _remove_session(Path(session))
        os._exit(0)  # Ray would now wait for what is gone


def _await_end() -> bool:
    """Return once standard input ends (true), or a process without which there is no Ray."""
    essential = [child for child in _children() if _name(child) in _ESSENTIAL]
    while not select.select([sys.stdin], [], [], _LOOK_S)[0]:
        if not all(_name(child) in _ESSENTIAL for child in essential):
            return False
    return True


def _name(pid: int) -> str:
    """The name of a process; nothing of one that has ended."""
    try:
        name, _, state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(") ")
    except OSError:
        return ""
    return "" if state.startswith("Z") else name.partition("(")[2]


def _remove_session(folder: Path) -> None:
    """Remove what Ray leaves on the disk, its logs among it, and the link to it."""
    shutil.rmtree(folder, ignore_errors=True)
    latest = folder.parent / "session_latest"
    with suppress(OSError):
        if latest.is_symlink() and not latest.exists():
            latest.unlink()


def _adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies (where the system can do that)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _end_children() -> None:
    """Kill all children, and theirs as they are adopted."""
    deadline = time.monotonic() + _GRACE_S / 2
    while (children := _children()) and time.monotonic() < deadline:
        for child in children:
            with suppress(OSError):
                os.kill(child, signal.SIGKILL)
            with suppress(OSError):
                os.waitpid(child, 0)


def _children() -> list[int]:
    try:
        lists = [p.read_text() for p in Path("/proc/self/task").glob("*/children")]
    except OSError:
        return []
    return [int(word) for text in lists for word in text.split()]


if __name__ == "__main__":
    main(int(sys.argv[1]))
