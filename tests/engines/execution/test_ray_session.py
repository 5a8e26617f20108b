"""Sessions with Ray: addresses that are none, where nobody answers, and who is let in."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from processes import DEADLINE_S, TRIED_TWICE, command_of, descendants, the_one, wait_until
from ray_clusters import Held, held_cluster

from engines.core.errors import UserError
from engines.execution import ray_session as sessions
from engines.execution.ray_session import AUTO, LOCAL, host_and_port, ray_session


def real_ray(test: Callable[..., None]) -> Callable[..., None]:
    """Marks a test that talks to Ray."""
    for mark in (
        pytest.mark.slow,
        pytest.mark.alone,
        pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray needed"),
    ):
        test = mark(test)
    return test


def connect(address: str) -> None:
    with ray_session(address):
        raise AssertionError(f"{address} answers")


def test_addresses() -> None:
    assert host_and_port(LOCAL) is None
    assert host_and_port(AUTO) is None
    assert host_and_port("10.0.0.1:6379") == ("10.0.0.1", 6379)
    for address in ("", "here", "10.0.0.1:", ":6379", "ray://10.0.0.1:10001", "a:0", "a:99999"):
        with pytest.raises(
            UserError, match=f"HOST:PORT of a cluster, auto or local, got '{address}'"
        ):
            connect(address)


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 70, "a..b", "-", "ä ö", "0x"])
def test_hosts_that_are_none_are_told(host: str) -> None:
    with pytest.raises(UserError, match=f"no Ray cluster answers at {host}:6379 "):
        sessions.require_cluster(f"{host}:6379")


def test_a_port_at_which_nothing_listens_is_told_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # taken, so that nobody else listens there
        port = free.getsockname()[1]
        with pytest.raises(UserError, match=rf"answers at 127.0.0.1:{port} \(Connection refused"):
            sessions.require_cluster(f"127.0.0.1:{port}")


def test_without_ray_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs Ray, which is not installed: pip install"):
        connect(LOCAL)


def test_a_machine_too_busy_to_load_ray_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "_LOAD_S", 0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UserError, match="Ray itself did not load within 0 s"):
            sessions.require_cluster(address)


@real_ray
def test_something_that_is_no_cluster_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "_ANSWER_S", 1)
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UserError, match=rf"no Ray cluster answers at {address} within 1 s"):
            sessions.require_cluster(address)
    assert time.monotonic() - began < 60  # Ray itself would wait longer


@real_ray
def test_a_machine_that_is_no_node_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "none")  # else another cluster of this machine would do
    with pytest.raises(UserError, match=r"no Ray cluster answers at auto \(.*none"):
        connect(AUTO)


JOIN = """
import sys
from ray._private import utils
if "other version" in sys.argv:
    utils.compute_version_info = lambda: ("2.1.0", "3.8.9")
from engines.core.errors import UserError
from engines.execution.ray_session import ray_session
try:
    with ray_session(sys.argv[1]) as session:
        print("alive" if session.is_alive() else "dead")
except UserError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def held() -> Iterator[Held]:
    with held_cluster() as cluster:
        yield cluster


@real_ray
@pytest.mark.parametrize(
    ("token", "case", "told"),
    [
        (None, "", r"^alive$"),
        ("0" * 64, "", "who has its token: set RAY_AUTH_MODE=token"),
        (None, "other version", r"runs other versions than this command.*2\.1\.0"),
    ],
)
def test_who_is_let_in(held: Held, token: str | None, case: str, told: str) -> None:
    environment = {**os.environ, **held.environment}
    if token is not None:
        environment["RAY_AUTH_TOKEN"] = token
    command = [sys.executable, "-c", JOIN, held.address, case]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=DEADLINE_S, env=environment
    )
    assert re.search(told, done.stdout.replace("\n", " ").strip()), done
    assert done.stderr == ""


@TRIED_TWICE
@real_ray
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_a_cluster_whose_process_goes(number: signal.Signals) -> None:
    with held_cluster() as cluster:
        below = descendants(cluster.pid)
        assert the_one(below, "/gcs_server ")
        os.kill(cluster.pid, number)
        wait_until(lambda: not any(map(command_of, [cluster.pid, *below])), "Ray to end")
