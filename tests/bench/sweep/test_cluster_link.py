"""Addresses that are none, at which nobody answers, or at which something else does."""

from __future__ import annotations

import multiprocessing
import socket
import tempfile
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.cli import main
from bench.sweep.cluster.link import Link
from bench.sweep.cluster.place import RayCluster
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


@pytest.mark.slow
def test_something_that_is_no_cluster_is_given_up_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(UserError, match=r"no Ray cluster answers at .* within 6 s: check the"):
            Link(f"127.0.0.1:{port}")
    assert not [p for p in multiprocessing.active_children() if p.name == "ray-driver"]
    assert not list(tmp_path.iterdir())


def test_without_ray_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="--ray needs Ray, which is not installed"):
        RayCluster("local")
