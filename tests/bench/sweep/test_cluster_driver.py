"""What the driver makes of Ray's answers, with a Ray that is made up."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from bench.sweep.cluster.driver import _Driver
from bench.sweep.cluster.messages import Connected, Lost, News
from bench.sweep.cluster.nodes import Placement
from bench.sweep.worker import Advanced, Failed
from engines.execution.ray_cluster import Cluster

ERRORS = ("NodeDiedError", "TaskUnschedulableError", "OutOfMemoryError", "WorkerCrashedError")
EXCEPTIONS = SimpleNamespace(**{name: type(name, (Exception,), {}) for name in ERRORS})


class FakeRay(SimpleNamespace):
    """One node, and streams whose items are ready at once; an exception among them is raised."""

    exceptions = EXCEPTIONS

    def __init__(self) -> None:
        resources = {"CPU": 4.0, "GPU": 2.0, "accelerator_type:A100": 1.0}
        self.there = [
            {
                "NodeID": "n",
                "NodeManagerAddress": "10.0.0.1",
                "Alive": True,
                "Resources": resources,
            },
            {"NodeID": "x", "NodeManagerAddress": "10.0.0.2", "Alive": False, "Resources": {}},
        ]

    def nodes(self) -> list[dict[str, Any]]:
        return self.there

    def wait(self, streams: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        return streams, []

    def get(self, item: Any) -> Any:
        if isinstance(item, Exception):
            raise item
        return item


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)  # type: ignore[arg-type]
    return fake


@pytest.fixture
def driver(ray: FakeRay) -> Iterator[_Driver]:
    ours, theirs = multiprocessing.Pipe()
    driver = _Driver(theirs, Cluster())
    driver._look_at_nodes()
    (node,) = ours.recv().nodes
    assert (node.node_id, node.cpus, node.gpus, node.kind) == ("n", 4, 2, "A100")
    yield driver
    ours.close()
    theirs.close()


def news_of(driver: _Driver, *items: Any) -> list[Any]:
    """All that a task with these messages comes to."""
    driver.streams = {iter(items): (5, Placement("n", 1))}
    found = []
    while driver.streams:
        found += list(driver._news())
    return found


def test_the_last_word_ends_a_task(driver: _Driver) -> None:
    failed = Failed("broken")
    late = EXCEPTIONS.NodeDiedError()
    assert news_of(driver, Advanced(0.5), failed, late) == [
        News(5, Advanced(0.5)),
        News(5, failed),
    ]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (EXCEPTIONS.WorkerCrashedError(), "its process on 10.0.0.1 ended without a result"),
        (EXCEPTIONS.OutOfMemoryError(), "Ray killed its process on 10.0.0.1 for want of memory"),
        (ValueError("a\nb"), "its task on 10.0.0.1 was lost (ValueError: a b)"),
    ],
)
def test_a_lost_task_is_told_with_its_node(driver: _Driver, error: Exception, told: str) -> None:
    assert news_of(driver, Advanced(0.1), error)[1:] == [Lost(5, told)]


def test_a_task_that_ends_without_a_word_is_lost(driver: _Driver) -> None:
    (lost,) = news_of(driver)
    assert lost == Lost(5, "its process on 10.0.0.1 ended without a result")


@pytest.mark.parametrize("name", ["NodeDiedError", "TaskUnschedulableError"])
def test_a_lost_node_is_told(driver: _Driver, name: str) -> None:
    error = getattr(EXCEPTIONS, name)()
    assert news_of(driver, error) == [Lost(5, "the node 10.0.0.1 was lost", with_node=True)]


def test_whatever_is_lost_with_its_node_counts_as_lost_with_it(
    driver: _Driver, ray: FakeRay
) -> None:
    ray.there = []
    assert news_of(driver, EXCEPTIONS.WorkerCrashedError()) == [
        Lost(5, "the node 10.0.0.1 was lost", with_node=True)
    ]


def test_nodes_are_told_when_they_change(ray: FakeRay) -> None:
    ours, theirs = multiprocessing.Pipe()
    driver = _Driver(theirs, Cluster())
    for there in (ray.there, ray.there, []):
        ray.there, driver.next_look = there, 0.0
        driver._look_at_nodes()
    assert [len(ours.recv().nodes) for _ in range(2)] == [1, 0]
    assert not ours.poll()
    assert Connected(()) == Connected(driver.nodes)
