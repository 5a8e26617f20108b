"""Stored files that were damaged or made up: found, named in a line, and never loaded."""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import driver_fakes as fakes
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odd_values import JSON_VALUES

from bench.point.spec import PointSpec
from bench.records import SEAL, seal
from bench.results.store import Snapshot, State, Store
from engines.core.errors import UserError

SPEC = PointSpec(system="astra", window=(10.0, 20.0))
FILES = ("point.json", "metrics.json", "requests.parquet")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"), source="these sources")


def put(store: Store) -> Path:
    origin = fakes.provenance(SPEC, store.source, git_commit="c0ffee")
    return store.write(SPEC, fakes.outcome(SPEC), provenance=origin)


def refused(store: Store) -> str:
    """The reason why the point counts for nothing."""
    check = store.check(SPEC)
    assert check.state is State.CORRUPT
    assert check.record is None
    assert len(check.reason) < 300
    assert check.reason.isprintable()
    assert store.load([SPEC]).empty
    with pytest.raises(UserError, match="run it again"):
        store.load_requests(SPEC)
    return check.reason


def record_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_bytes())
    del found[SEAL]
    return found


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit the record and seal it anew, as somebody would who knows how."""
    record = record_of(path)
    edit(record)
    path.write_bytes(seal(record))


DAMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "point.json is not valid JSON": ("point.json", lambda p: p.write_bytes(p.read_bytes()[:-40])),
    "point.json is not an object": ("point.json", lambda p: p.write_text("[]")),
    "point.json has format 1": ("point.json", lambda p: change(p, lambda r: r.update(format=1))),
    "point.json cannot be read": ("point.json", lambda p: (p.unlink(), p.mkdir())),
    "describes another point": (
        "point.json", lambda p: change(p, lambda r: r["spec"].update(model="opt-66b"))
    ),
    "metrics.json is missing": ("metrics.json", Path.unlink),
    "requests.parquet is missing": ("requests.parquet", Path.unlink),
    "metrics.json does not match": ("metrics.json", lambda p: p.write_text("{}")),
    "requests.parquet does not match": ("requests.parquet", lambda p: p.write_bytes(b"PAR1")),
    "metrics.json and point.json disagree": (
        "point.json", lambda p: change(p, lambda r: r["metrics"].update(seed=99))
    ),
    "lacks provenance": ("point.json", lambda p: change(p, lambda r: r.pop("provenance"))),
    "has unknown 'x\\x1b[31m'": (
        "point.json", lambda p: change(p, lambda r: r.update({"x\x1b[31m": 1}))
    ),
    "has no time in 'noon'": (
        "point.json", lambda p: change(p, lambda r: r["provenance"].update(started="noon"))
    ),
}  # fmt: skip


@pytest.mark.parametrize("reason", DAMAGES)
def test_damage_is_found_named_and_never_loaded(tmp_path: Path, reason: str) -> None:
    store = Store(tmp_path, source="these sources")
    name, damage = DAMAGES[reason]
    damage(put(store) / name)
    assert reason in refused(store)


@pytest.mark.parametrize("name", FILES)
def test_no_byte_can_change_unseen(store: Store, name: str) -> None:
    path = put(store) / name
    sound = path.read_bytes()
    draw = random.Random(7)
    for place in draw.sample(range(len(sound)), 40):
        kinds = (
            bytes([sound[place] ^ 1 << draw.randrange(8)]),
            b"",
            sound[place : place + 1] * 2,
            b" " + sound[place : place + 1],
        )
        for changed in kinds:
            path.write_bytes(sound[:place] + changed + sound[place + 1 :])
            assert store.state(SPEC) is State.CORRUPT
    path.write_bytes(sound)
    assert store.state(SPEC) is State.COMPLETE


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 50_000, "9" * 5000, "", "null", "NaN"])
def test_what_no_parser_likes_is_damage_like_any_other(store: Store, text: str) -> None:
    (put(store) / "point.json").write_text(text)
    refused(store)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all values in a record."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    for key, item in value.items() if isinstance(value, dict) else ():
        yield (*path, key)
        yield from places(item, (*path, key))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_made_up_record_is_refused_or_read_and_never_a_fault(store: Store, data: Any) -> None:
    """Values of any kind anywhere, under a checksum that is right."""
    path = put(store) / "point.json"
    record = record_of(path)
    *above, last = data.draw(st.sampled_from(list(places(record))))
    holder: Any = record
    for key in above:
        holder = holder[key]
    if isinstance(holder, dict) and data.draw(st.booleans()):
        del holder[last]
    else:
        holder[last] = data.draw(JSON_VALUES)
    path.write_bytes(seal(record))
    frame, state = store.load([SPEC]), store.state(SPEC)
    assert len(frame) == (state in (State.COMPLETE, State.STALE))


def test_a_reader_beside_a_forced_rerun_meets_one_run_or_the_other(tmp_path: Path) -> None:
    store = Store(tmp_path, source="these sources")
    put(store)
    stop = threading.Event()

    def rerun() -> None:
        while not stop.is_set():
            put(store)

    writer = threading.Thread(target=rerun)
    writer.start()
    try:
        states = {store.state(SPEC) for _ in range(400)}
        assert len(store.load_requests(SPEC)) == 5
    finally:
        stop.set()
        writer.join()
    assert states == {State.COMPLETE}


def test_a_store_for_showing_reads_each_point_once(tmp_path: Path) -> None:
    directory = put(Store(tmp_path, source="these sources"))
    shown = Snapshot(tmp_path, source="these sources")
    before = shown.load([SPEC])
    for name in FILES:
        os.unlink(directory / name)
    assert shown.load([SPEC]).equals(before)
    assert shown.state(SPEC) is State.COMPLETE
