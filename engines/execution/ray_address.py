"""Where a Ray cluster is, and whether one answers there.

Ray itself waits minutes where none does, then ends the process: so it is asked in a process of its
own, which the system ends in time.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys

from engines.core.errors import UserError

LOCAL, AUTO = "local", "auto"
_REACH_S = 5.0  # for a port to answer
_LOAD_S = 120.0  # for Ray to be imported
_ANSWER_S = 6  # for a cluster to answer
_CHECK = "check the address ('ray status' on one of its nodes shows it), or use --ray local"


def parse_address(address: str) -> tuple[str, int] | None:
    """Host and port; None for a cluster of this machine. Raises UserError for anything else."""
    if address in (LOCAL, AUTO):
        return None
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise UserError(f"--ray takes HOST:PORT of a cluster, {AUTO} or {LOCAL}, got '{address}'")
    return host, int(port)


def require_listener(address: str) -> None:
    """Raise UserError, within seconds, for what is no address and where nothing listens."""
    place = parse_address(address)
    if place is None:
        return
    try:
        socket.create_connection(place, timeout=_REACH_S).close()
    except (OSError, UnicodeError) as error:  # the latter for what can be no host's name
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"no Ray cluster answers at {address} ({reason}): {_CHECK}") from None


def require_cluster(address: str) -> None:
    """Raise UserError, within ten seconds, where no cluster answers or it does not let us in."""
    require_listener(address)
    command = [sys.executable, "-m", __name__, address, str(_ANSWER_S)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LOAD_S, check=False)
    except subprocess.TimeoutExpired:
        raise UserError(
            f"Ray itself did not load within {_LOAD_S:g} s: this machine is too busy, try again"
        ) from None
    if done.returncode == 0:
        return
    if done.returncode == -signal.SIGALRM:
        raise UserError(f"no Ray cluster answers at {address} within {_ANSWER_S} s: {_CHECK}")
    if "InvalidAuthToken" in done.stderr:
        raise UserError(
            f"the Ray cluster at {address} lets in only who has its token: set "
            "RAY_AUTH_MODE=token, and have the token of its nodes in ~/.ray/auth_token or in "
            "RAY_AUTH_TOKEN"
        )
    lines = done.stderr.strip().splitlines() or ["no reason given"]
    raise UserError(f"no Ray cluster answers at {address} ({lines[-1][:300]}): {_CHECK}")


def main(address: str, patience_s: int) -> None:
    """Ask the cluster for its id, for a limited time."""
    from ray._private import services
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # it is compiled

    signal.alarm(patience_s)  # whose default is to end the process, whatever it waits for
    GcsClient(address=services.canonicalize_bootstrap_address(address))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
