"""Addresses that are none, at which nobody answers, or at which something else does."""

from __future__ import annotations

import multiprocessing
import socket
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from cluster_fakes import drive_without_token

from bench.cli import main
from bench.cluster import link
from bench.cluster.driver import Destination, _reason
from bench.cluster.link import Link, check_reachable, parse_address
from bench.cluster.place import RayCluster
from engines.core.errors import UserError


def sweep(address: str, folder: Path) -> tuple[int, str]:
    words = ["figure", "fig2", "--backend", "sim", "--artifacts", str(folder), "--ray", address]
    result = CliRunner().invoke(main, words)
    assert result.stdout == ""
    assert not list(folder.rglob("*.json"))
    return result.exit_code, result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "address",
    ["", "here", "10.0.0.1", "10.0.0.1:", ":6379", "ray://10.0.0.1:10001", "a:0", "a:99999"],
)
def test_what_is_no_address_is_told_at_once(address: str, tmp_path: Path) -> None:
    status, line = sweep(address, tmp_path)
    assert status == 2
    assert line == f"Error: --ray takes HOST:PORT of a cluster, auto or local, got '{address}'"


def test_addresses() -> None:
    assert parse_address("local") is None
    assert parse_address("auto") is None
    assert parse_address("10.0.0.1:6379") == ("10.0.0.1", 6379)


def test_a_port_at_which_nothing_listens_is_told_at_once(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.monotonic()
    status, line = sweep(f"127.0.0.1:{port}", tmp_path)
    assert time.monotonic() - began < 10
    assert status == 2
    assert line.startswith(
        f"Error: no Ray cluster answers at 127.0.0.1:{port} (Connection refused)"
    )


def test_an_unknown_host_is_told() -> None:
    with pytest.raises(UserError, match=r"no Ray cluster answers at nowhere.invalid:6379"):
        check_reachable("nowhere.invalid:6379")


@pytest.mark.slow
def test_something_that_is_no_cluster_is_given_up_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setattr(link, "_CONNECT_ELSEWHERE_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(UserError, match=r"within 1 s: check the address"):
            Link(f"127.0.0.1:{port}")
    assert not [p for p in multiprocessing.active_children() if p.name == "ray-driver"]


@pytest.mark.slow
def test_a_cluster_that_wants_a_token_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "_CONNECT_ELSEWHERE_S", 0.5)
    monkeypatch.setattr(link, "drive", drive_without_token)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(UserError, match=r"who has its token: set RAY_AUTH_MODE=token"):
            Link(f"127.0.0.1:{port}")
    assert not [p for p in multiprocessing.active_children() if p.name == "ray-driver"]


def test_without_ray_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="--ray needs Ray, which is not installed"):
        RayCluster("local")


def test_reasons_are_one_line() -> None:
    where = Destination("10.0.0.1:6379", Path("sources"), Path("log"), 2)
    versions = _reason(where, RuntimeError("Version mismatch: cluster:\n  Ray: 1\nhere:\n  Ray: 2"))
    assert versions == (
        "the cluster at 10.0.0.1:6379 runs other versions. cluster: Ray: 1 here: Ray: 2 Install "
        "the same versions on both sides"
    )
    other = _reason(where, ConnectionError("no\nway"))
    assert other.startswith("cannot connect to the Ray cluster at 10.0.0.1:6379: no way")
