"""Commands that use Ray run below a process that tells their end.

Ray's library ends the process that uses it, with status 1 and at most a line of its own, when it
loses the cluster's head or this machine's raylet in the middle of a call.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence

from engines.core.errors import UserError

_LINE = "BENCH_RAY_GUARD"  # in the environment: the descriptor of the command's end of the line
_ENDED = b"."  # said by a command whose Python has come to its end


def wants_guard(words: Sequence[str]) -> bool:
    """Whether a command line uses Ray."""
    return any(word == "--ray" or word.startswith("--ray=") for word in words)


def run_guarded(words: Sequence[str]) -> int:
    """Run `bench WORDS` and return its status; raises UserError if Ray or a signal ended it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = subprocess.Popen(
            [sys.executable, "-m", "bench", *words],
            pass_fds=[theirs.fileno()],
            env={**os.environ, _LINE: str(theirs.fileno())},
            process_group=0,  # so that Ctrl-C reaches it once, through us
        )
        theirs.close()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _frame: command.send_signal(number))
        status = command.wait()
        if ours.recv(1) == _ENDED:
            return status
    if status < 0:
        how = f"the command was killed by {signal.Signals(-status).name}"
    else:
        how = "Ray has ended the command, as it does where its cluster is lost"
    raise UserError(f"{how}: to go on, run it again; finished points are kept")


def join_guard() -> bool:
    """If this process is guarded, say at its end that it is one, and do not outlive the guard."""
    number = os.environ.pop(_LINE, None)
    if number is None:
        return False
    line = socket.socket(fileno=int(number))
    line.set_inheritable(False)
    atexit.register(line.send, _ENDED)

    def wait_for_guard() -> None:
        line.recv(1)  # it says nothing: this returns when it is gone
        os._exit(1)

    threading.Thread(target=wait_for_guard, daemon=True).start()
    return True
