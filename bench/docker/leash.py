"""Runs a command in a container, and ends it when standard input closes: `leash COMMAND...`.

The launcher holds the other end, so that its commands do not outlive it, however it goes. As the
container's first process, this one takes all others with it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading

_KILLED = 137


def main(words: list[str]) -> int:
    """Run the command to the end and return its exit status."""
    child = subprocess.Popen(words, stdin=subprocess.DEVNULL)

    def watch() -> None:
        while os.read(0, 1 << 12):
            pass  # the launcher has nothing to say
        child.kill()
        os._exit(_KILLED)

    threading.Thread(target=watch, daemon=True).start()
    status = child.wait()
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
