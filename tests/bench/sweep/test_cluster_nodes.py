"""Which point runs on which node: simulations, GPUs, whole nodes, and what does not fit."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.point.spec import PointSpec
from bench.sweep.cluster.nodes import Ledger, Need, Node, Placement, check_room, need_of
from engines.core.errors import UserError

CPU = Node("c", "10.0.0.1", cpus=4)
GPU = Node("g", "10.0.0.2", cpus=16, gpus=8, kind="A100")
SMALL = Node("s", "10.0.0.3", cpus=8, gpus=2)


def fill(ledger: Ledger, need: Need) -> list[Placement]:
    """Take places for points with `need` until there is none."""
    taken = []
    while (placement := ledger.place(need)) is not None:
        ledger.take(placement)
        taken.append(placement)
    return taken


def point(backend: str, degree: int | None = None) -> PointSpec:
    return PointSpec(system="astra", backend=backend, tensor_parallel=degree)


def test_needs() -> None:
    assert need_of(point("sim", 8)) == Need()  # its devices are simulated
    assert need_of(point("cuda")) == Need(gpus=1)
    assert need_of(point("cuda", 4)) == Need(gpus=4)
    assert need_of(point("cpu")) == Need(whole_node=True)
    assert need_of(point("cpu", 2)) == Need(cpus=2, whole_node=True)


def test_simulations_take_a_core_each() -> None:
    places = fill(Ledger([CPU, GPU]), Need())
    assert len(places) == CPU.cpus + GPU.cpus
    assert {(place.cpus, place.gpus) for place in places} == {(1, 0)}


def test_points_on_gpus_share_a_node_and_its_cores() -> None:
    places = fill(Ledger([CPU, GPU, SMALL]), Need(gpus=1))
    assert len(places) == 10
    assert {(p.node_id, p.cpus, p.gpus) for p in places} == {("g", 2, 1), ("s", 4, 1)}


def test_a_model_on_the_cpu_has_a_node_to_itself() -> None:
    ledger = Ledger([CPU, GPU])
    simulation = ledger.place(Need())
    assert simulation is not None
    ledger.take(simulation)
    (place,) = fill(ledger, Need(whole_node=True))
    assert (simulation.node_id, place.node_id, place.cpus) == ("c", "g", 16)
    assert ledger.place(Need(gpus=1)) is None
    ledger.give_back(simulation)
    assert len(fill(ledger, Need(whole_node=True))) == 1


def test_an_engine_with_workers_has_its_gpus_on_one_node() -> None:
    places = fill(Ledger([GPU, SMALL, CPU]), Need(gpus=4))
    assert [(p.node_id, p.cpus, p.gpus) for p in places] == [("g", 8, 4)] * 2
    assert fill(Ledger([GPU, SMALL]), Need(gpus=16)) == []


def test_simulations_leave_nodes_with_gpus_to_others_while_they_can() -> None:
    places = fill(Ledger([GPU, CPU]), Need())
    assert [place.node_id for place in places[: CPU.cpus]] == ["c"] * CPU.cpus


def test_a_lost_node_is_never_used_again_but_a_new_one_is() -> None:
    ledger = Ledger([CPU])
    ledger.avoid("c")
    ledger.update([CPU])
    assert ledger.place(Need()) is None
    ledger.update([CPU, Node("d", CPU.address, cpus=4)])
    placement = ledger.place(Need())
    assert placement is not None
    assert placement.node_id == "d"


@pytest.mark.parametrize(
    ("backend", "degree", "nodes", "told"),
    [
        ("cuda", 1, [CPU], r"needs a node with 1 GPUs, but the cluster has 10.0.0.1 \(4 CPUs\)"),
        (
            "cuda",
            16,
            [GPU, CPU],
            r"needs a node with 16 GPUs.*10.0.0.2 \(16 CPUs, 8 GPUs A100\), 10.0.0.1",
        ),
        ("cpu", 32, [CPU], "needs a node with 32 CPUs"),
        ("sim", 1, [], "needs a node with 1 CPUs, but the cluster has no node"),
    ],
)
def test_what_is_too_large_is_told_with_what_is_there(
    backend: str, degree: int, nodes: list[Node], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        check_room(nodes, [point("sim")] * bool(nodes) + [point(backend, degree)])


def test_what_fits_is_not_refused() -> None:
    check_room([CPU, GPU], [point("sim"), point("cuda", 8), point("cuda"), point("cpu", 4)])


NEEDS = st.sampled_from([need_of(point(b, d)) for b in ("sim", "cuda", "cpu") for d in (1, 2, 4)])


@given(st.lists(st.tuples(NEEDS, st.booleans()), max_size=60))
def test_no_node_is_ever_asked_for_more_than_it_has(
    steps: Iterable[tuple[Need, bool]],
) -> None:
    nodes = {node.node_id: node for node in (CPU, GPU, SMALL)}
    ledger, held = Ledger(nodes.values()), []
    for need, release in steps:
        if release and held:
            ledger.give_back(held.pop(0))
        placement = ledger.place(need)
        if placement is not None:
            ledger.take(placement)
            held.append(placement)
        for node_id, node in nodes.items():
            there = [place for place in held if place.node_id == node_id]
            assert sum(place.cpus for place in there) <= node.cpus
            assert sum(place.gpus for place in there) <= node.gpus
    for placement in held:
        ledger.give_back(placement)
    assert len(fill(ledger, Need())) == sum(node.cpus for node in nodes.values())
