"""A session with Ray: on a cluster of this machine's own, or one that is there already."""

from __future__ import annotations

import importlib.util
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from engines.core.errors import UserError
from engines.core.text import parse_whole, shown

LOCAL, AUTO = "local", "auto"
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # as later versions do; else Ray warns of it
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # of tasks that nobody waits for any more
    # Nobody reads what Ray notes of tasks; to hand it to a dead head it would wait ten seconds.
    "RAY_task_events_shutdown_flush_timeout_ms": "200",
    # A call that is waiting when the head dies is ended by Ray, with the process, after this long.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
}
_OBJECT_STORE_BYTES = 256 << 20  # results are small, and a machine's shared memory may be too
_TOKEN = secrets.token_hex(32)  # of clusters of our own; Ray reads it once in a process
_REACH_S = 5.0  # for a port to answer
_LOAD_S = 120.0  # for Ray to be imported
_ANSWER_S = 6  # for a cluster to answer
_CHECK = "check the address ('ray status' on one of its nodes shows it), or use --ray local"

# Where no cluster answers, Ray waits for a minute and then ends the process: so it is asked in a
# process of its own. The alarm's default is to end that, whatever it waits for.
_PROBE = """
import signal, sys
from ray._private import services
from ray._raylet import GcsClient
signal.alarm(int(sys.argv[2]))
GcsClient(address=services.canonicalize_bootstrap_address(sys.argv[1]))
"""


@dataclass(frozen=True)
class RaySession:
    """A connection to Ray; `node` is Ray's record of a cluster that this process started."""

    node: Any = None

    def is_alive(self) -> bool:
        """Whether the cluster's head still answers."""
        if self.node is not None and self.node.dead_processes():
            return False
        import ray

        try:
            _reach(ray.get_runtime_context().gcs_address)
        except UserError:
            return False
        return True


@contextmanager
def ray_session(
    address: str, *, num_cpus: int | None = None, runtime_env: Mapping[str, Any] | None = None
) -> Iterator[RaySession]:
    """Start Ray on this machine ("local"), or connect to HOST:PORT or this node's cluster ("auto").

    A cluster of this machine's own counts `num_cpus` cores (default: those there are) and ends with
    the block, or with this process. `runtime_env` is what Ray brings to tasks and actors. Inside of
    a session, or of a Ray task, the session is the one that is there. Raises UserError with the
    remedy, within seconds where no cluster answers.
    """
    host_and_port(address)
    if importlib.util.find_spec("ray") is None:
        raise UserError(
            "--ray or --tensor-parallel above 1 needs Ray, which is not installed: "
            "pip install 'astra-artifact[ray]' (in a checkout: .venv/bin/pip install -e '.[ray]')"
        )
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        yield RaySession()
        return
    os.environ.update(SETTINGS)  # which Ray reads when it is imported
    options: dict[str, Any] = {"address": address, "runtime_env": runtime_env}
    if address == LOCAL:
        options |= {
            "num_cpus": num_cpus,
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
        }
    else:
        require_cluster(address)
    with _own_token(address):
        session = _init(address, options)
        try:
            yield session
        finally:
            _end(session)


def _init(address: str, options: Mapping[str, Any]) -> RaySession:
    import ray
    from ray._private import worker

    logging.getLogger("ray").setLevel(logging.ERROR)
    on_term = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray has no type for what may go wrong here
        ray.shutdown()
        raise UserError(_reason(address, " ".join(str(error).split()))) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_term)  # Ray's would print a stack trace
    worker.print_to_stdstream = lambda *_args, **_named: None  # deaths are told by us
    return RaySession(worker._global_node if address == LOCAL else None)


def _end(session: RaySession) -> None:
    """End the connection, and the cluster if it is ours; Ray would wait long for a dead head."""
    import ray

    alive = session.is_alive()
    if session.node is not None and not alive:
        session.node.kill_all_processes(check_alive=False, allow_graceful=False)
    if alive or session.node is not None:
        ray.shutdown()
    if session.node is not None:
        shutil.rmtree(session.node.get_session_dir_path(), ignore_errors=True)


@contextmanager
def _own_token(address: str) -> Iterator[None]:
    """Let only this process into a cluster that it starts, unless the user has set how."""
    if address != LOCAL or "RAY_AUTH_MODE" in os.environ:
        yield
        return
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=_TOKEN)
    try:
        yield
    finally:
        del os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"]


def host_and_port(address: str) -> tuple[str, int] | None:
    """Split an address; None for "local" and "auto". Raises UserError for anything else."""
    if address in (LOCAL, AUTO):
        return None
    host, _, digits = address.rpartition(":")
    with suppress(ValueError):
        if 0 < (port := parse_whole(digits)) < 1 << 16 and host and "/" not in host:
            return host, port
    raise UserError(f"--ray takes HOST:PORT of a cluster, {AUTO} or {LOCAL}, got {shown(address)}")


def require_cluster(address: str) -> None:
    """Raise UserError, within ten seconds, where no cluster answers or it does not let us in."""
    if address != AUTO:
        _reach(address)
    command = [sys.executable, "-c", _PROBE, address, str(_ANSWER_S)]
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


def _reach(address: str) -> None:
    """Raise UserError, within seconds, where nothing listens."""
    try:
        socket.create_connection(host_and_port(address) or ("", 0), timeout=_REACH_S).close()
    except (OSError, UnicodeError) as error:  # the latter for what can be no host's name
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"no Ray cluster answers at {address} ({reason}): {_CHECK}") from None


def _reason(address: str, words: str) -> str:
    if "Version mismatch" in words:
        found = words.partition("Version mismatch:")[2].strip()
        return (
            f"the Ray cluster at {address} runs other versions than this command. {found} Install "
            "the same versions on both sides"
        )
    if address == LOCAL:
        return f"Ray does not start on this machine: {words[:300]}"
    return f"cannot use the Ray cluster at {address}: {words[:300]} (run on one of its nodes)"
