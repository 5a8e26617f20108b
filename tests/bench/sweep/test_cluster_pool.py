"""The pool's own logic, with a cluster that is made up: room, losses, locks, writing, stopping."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import driver_fakes as drivers
import pytest

from bench.files import NoSpaceError
from bench.point.spec import PointSpec
from bench.progress import Display
from bench.results.store import State, Store
from bench.sweep.cluster.messages import Lost, News, Served, Submit
from bench.sweep.cluster.nodes import Node
from bench.sweep.cluster.pool import NODE_LOSSES, ClusterPool
from bench.sweep.pool import Undertaking
from bench.sweep.runner import Summary, run_points
from bench.sweep.worker import Advanced, Failed
from engines.core.errors import UserError

NODES = (Node("a", "10.0.0.1", cpus=2), Node("b", "10.0.0.2", cpus=2))
NOW = datetime(2030, 1, 1, tzinfo=UTC)


def served(spec: PointSpec) -> Served:
    machine = {"cpu": "made up", "ray": {"version": "9", "node": "10.0.0.9"}}
    return Served(drivers.outcome(spec), machine, NOW, NOW)


class FakeLink:
    """A cluster that answers each point as `answer` says, one message at a time."""

    def __init__(self, answer: Callable[[Submit], list[Any]]) -> None:
        self.nodes = NODES
        self.submitted: list[Submit] = []
        self.most_at_once = 0
        self.closed = False
        self._answer = answer
        self._due: list[Any] = []
        self._open: set[int] = set()

    def submit(self, command: Submit) -> None:
        self.submitted.append(command)
        self._open.add(command.key)
        self.most_at_once = max(self.most_at_once, len(self._open))
        self._due += self._answer(command)

    def receive(self, timeout_s: float) -> list[Any]:
        if not self._due:
            return []
        message = self._due.pop(0)
        if isinstance(message, tuple):  # the nodes from now on
            self.nodes = message
            return []
        if not (isinstance(message, News) and isinstance(message.message, Advanced)):
            self._open.discard(message.key)
        return [message]

    def close(self) -> None:
        self.closed = True


class FakePlace:
    """A place whose pools talk to one made-up cluster."""

    def __init__(self, link: FakeLink, **options: Any) -> None:
        self.link = link
        self._options = options

    def open(self, undertaking: Undertaking, display: Display) -> ClusterPool:
        return ClusterPool(undertaking, self.link, drivers.succeed, **self._options)


class Notes(Display):
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.shares: list[float] = []

    def advance(self, spec: PointSpec, fraction: float) -> None:
        self.shares.append(fraction)

    def note(self, line: str) -> None:
        self.lines.append(line)


def succeed(command: Submit) -> list[Any]:
    return [
        News(command.key, Advanced(0.5)),
        News(command.key, served(command.order.spec)),
    ]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path, source="present")


def run(store: Store, link: FakeLink, count: int = 6, **options: Any) -> tuple[Summary, Notes]:
    notes = Notes()
    place = FakePlace(link, **options)
    return run_points(store, drivers.specs(count), place=place, display=notes), notes


def test_points_fill_the_nodes_and_are_written_here(store: Store) -> None:
    link = FakeLink(succeed)
    summary, notes = run(store, link, 9)
    assert len(summary.done) == 9
    assert link.most_at_once == 4
    assert {command.placement.node_id for command in link.submitted} == {"a", "b"}
    assert notes.shares == [0.5] * 9
    plain = Store(store.root / "plain", source="present")
    spec = summary.done[0]
    run_points(plain, [spec], place=FakePlace(FakeLink(succeed)))
    names = ("metrics.json", "requests.parquet")
    for directory in (store.directory(spec), plain.directory(spec)):
        assert all((directory / name).exists() for name in names)
    provenance = store.load_record(spec)["provenance"]
    assert provenance["ray"] == {"version": "9", "node": "10.0.0.9"}
    assert provenance["cpu"] == "made up"
    assert provenance["started"] == NOW.isoformat(timespec="milliseconds")
    assert provenance["source_sha256"] == "present"


def test_the_connection_outlasts_a_run(store: Store) -> None:
    """A search for a rate runs many rounds of points over one cluster."""
    place = FakePlace(FakeLink(succeed))
    for seed in range(3):
        assert len(run_points(store, [replace(drivers.specs(1)[0], seed=seed)], place=place).done)
    assert not place.link.closed
    assert len(place.link.submitted) == 3


def test_jobs_limit_the_points_at_a_time(store: Store) -> None:
    link = FakeLink(succeed)
    run(store, link, limit=2)
    assert link.most_at_once == 2


def test_a_failed_point_costs_itself_alone(store: Store) -> None:
    def answer(command: Submit) -> list[Any]:
        if command.order.spec.seed == 2:
            return [News(command.key, Failed("broken", "Traceback"))]
        return succeed(command)

    summary, _ = run(store, FakeLink(answer))
    assert [(f.spec.seed, f.error) for f in summary.failed] == [(2, "broken")]
    assert len(summary.done) == 5


def test_a_lost_process_is_tried_once_more(store: Store) -> None:
    link = FakeLink(lambda command: [Lost(command.key, "killed")])
    summary, notes = run(store, link, 1)
    assert [failure.error for failure in summary.failed] == ["killed"]
    assert len(link.submitted) == 2
    assert any("killed; trying once more" in line for line in notes.lines)


def test_points_of_a_lost_node_go_to_another_and_do_not_count_as_tried(store: Store) -> None:
    lost = {"a"}

    def answer(command: Submit) -> list[Any]:
        if command.placement.node_id in lost:
            return [Lost(command.key, "the node 10.0.0.1 was lost", with_node=True)]
        return succeed(command)

    link = FakeLink(answer)
    summary, notes = run(store, link)
    assert len(summary.done) == 6
    assert link.nodes == NODES  # even while the cluster still names the lost one
    last = [command.placement.node_id for command in link.submitted[-4:]]
    assert set(last) == {"b"}
    assert any("was lost; it is run again" in line for line in notes.lines)


def test_a_point_that_outlives_no_node_fails_in_the_end(store: Store) -> None:
    def answer(command: Submit) -> list[Any]:
        lost = Lost(command.key, "the node was lost", with_node=True)
        fresh = Node(f"n{command.key}", "10.0.0.5", cpus=1)
        return [lost, (fresh,)]

    link = FakeLink(answer)
    summary, _ = run(store, link, 1)
    assert [failure.error for failure in summary.failed] == ["the node was lost"]
    assert len(link.submitted) == NODE_LOSSES + 1  # the runner tries once more


def test_without_nodes_the_run_ends_with_a_remedy(store: Store) -> None:
    def answer(command: Submit) -> list[Any]:
        return [(), Lost(command.key, "the node was lost", with_node=True)]

    link = FakeLink(answer)
    with pytest.raises(UserError, match=r"no node is left.*are none.*finished points are kept"):
        run(store, link, patience_s=0.0)
    assert not list(store.root.rglob(".*.lock"))


def test_a_node_that_comes_late_is_waited_for(store: Store) -> None:
    def answer(command: Submit) -> list[Any]:
        if command.key == 0:
            lost = Lost(command.key, "the node was lost", with_node=True)
            return [(), lost, (), (), (Node("c", "10.0.0.3", cpus=1),)]
        return succeed(command)

    summary, _ = run(store, FakeLink(answer), 1)
    assert len(summary.done) == 1


def test_points_that_another_run_holds_are_left_to_it(store: Store) -> None:
    first, second = drivers.specs(2)
    link = FakeLink(succeed)
    undertaking = Undertaking(store, (first, second), {"source_sha256": "present"}, False)
    pool = ClusterPool(undertaking, link, drivers.succeed)
    with store.lock(first):
        pool.start(first)
        pool.start(second)
        assert [command.order.spec for command in link.submitted] == [second]
        ended = [e.spec for _ in range(4) for e in pool.listen(Display())]
        assert ended == [second]
        assert pool.busy
        provenance = {"source_sha256": "present", "started": "", "ended": ""}
        store.write(first, drivers.outcome(first), provenance=provenance)
    (ended_first,) = pool.listen(Display())
    assert ended_first.outcome is not None
    assert ended_first.outcome.by_other  # type: ignore[union-attr]
    assert not pool.busy


def test_a_running_point_is_held_against_other_runs(store: Store) -> None:
    (spec,) = drivers.specs(1)
    undertaking = Undertaking(store, (spec,), {"source_sha256": "present"}, False)
    link = FakeLink(lambda command: [])
    pool = ClusterPool(undertaking, link, drivers.succeed)
    pool.start(spec)
    with store.lock(spec, wait=False) as free:
        assert not free
    pool.stop()
    assert link.closed
    with store.lock(spec, wait=False) as free:
        assert free


def test_a_full_disk_ends_the_run(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: Any, **__: Any) -> None:
        raise NoSpaceError("no space left")

    monkeypatch.setattr(Store, "write", write)
    link = FakeLink(succeed)
    summary, _ = run(store, link)
    assert [failure.error for failure in summary.failed] == ["no space left"]
    assert len(summary.unfinished) == 5
    assert link.closed


def test_input_files_travel_with_the_point(store: Store, tmp_path: Path) -> None:
    trace = tmp_path / "mine.csv"
    trace.write_text("arrival_s,input_len,output_len\n0,5,5\n")
    spec = replace(drivers.specs(1)[0], trace=str(trace))
    link = FakeLink(succeed)
    run_points(store, [spec], place=FakePlace(link))
    (command,) = link.submitted
    assert command.order.spec == spec
    assert command.order.files["trace"].content == trace.read_bytes()
    assert command.order.source_sha256 == "present"
    assert store.state(spec) is State.COMPLETE
    assert os.fspath(tmp_path) not in str(command.order.files)
