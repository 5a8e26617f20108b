"""Addresses of Ray clusters: what is none, where nobody answers, and who is let in."""

from __future__ import annotations

import importlib.util
import socket
import time

import pytest

from engines.core.errors import UserError
from engines.execution import ray_address
from engines.execution.ray_address import (
    AUTO,
    LOCAL,
    parse_address,
    require_cluster,
    require_listener,
)


def test_addresses() -> None:
    assert parse_address(LOCAL) is None
    assert parse_address(AUTO) is None
    assert parse_address("10.0.0.1:6379") == ("10.0.0.1", 6379)
    for address in ("", "here", "10.0.0.1:", ":6379", "ray://10.0.0.1:10001", "a:0", "a:99999"):
        with pytest.raises(
            UserError, match=f"HOST:PORT of a cluster, auto or local, got '{address}'"
        ):
            parse_address(address)


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 70, "a..b", "-", "ä ö", "0x"])
def test_hosts_that_are_none_are_told(host: str) -> None:
    with pytest.raises(UserError, match=f"no Ray cluster answers at {host}:6379 "):
        require_listener(f"{host}:6379")


def test_a_port_at_which_nothing_listens_is_told_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # taken, so that nobody else listens there
        port = free.getsockname()[1]
        with pytest.raises(UserError, match=rf"answers at 127.0.0.1:{port} \(Connection refused"):
            require_cluster(f"127.0.0.1:{port}")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray needed")
def test_something_that_is_no_cluster_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_address, "_ANSWER_S", 1)
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UserError, match=rf"no Ray cluster answers at {address} within 1 s"):
            require_cluster(address)
    assert time.monotonic() - began < 60  # Ray itself would wait longer


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray needed")
def test_a_machine_that_is_no_node_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "none")  # else another cluster of this machine would do
    with pytest.raises(UserError, match=r"no Ray cluster answers at auto \(.*none"):
        require_cluster(AUTO)


def test_a_machine_too_busy_to_load_ray_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_address, "_LOAD_S", 0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UserError, match="Ray itself did not load within 0 s"):
            require_cluster(address)
