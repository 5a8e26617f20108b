"""The loop on virtual time: tiny cases whose every time is computed by hand."""

from __future__ import annotations

import time

import pytest
from serving import ORCA, drive, make_config, make_content_engine, make_engine, make_request

from engines.core.batch import Batch
from engines.core.clock import VirtualClock, WallClock
from engines.core.config import System
from engines.core.errors import UserError
from engines.core.executor import Fork, StepResult
from engines.core.request import Request, Sequence, SequenceGroup, Status

ITERATION_LEVEL = ("astra", *(system.value for system in ORCA))


def two_requests() -> list[Request]:
    """One request of 3 tokens at once, one of 2 tokens that arrives during the first step."""
    return [make_request(0, 4, 3), make_request(1, 4, 2, arrival_s=0.5)]


@pytest.mark.parametrize("system", ITERATION_LEVEL)
def test_two_requests_on_an_iteration_level_system(system: str) -> None:
    """Steps of 1 s: 0 runs in steps 0-2, 1 joins in step 1 and ends in step 2."""
    engine = make_engine(make_config(system, num_slots=256))
    first, second = sorted(
        drive(engine, two_requests(), max_steps=9), key=lambda g: g.request.request_id
    )
    assert (first.first_token_s, first.finish_s) == (1.0, 3.0)
    assert (second.first_token_s, second.finish_s) == (2.0, 3.0)
    assert engine.num_steps == 3
    means = engine.recorder.means(256)
    assert means is not None
    assert means.running_requests == pytest.approx((1 + 2 + 2) / 3)


def test_two_requests_on_ft() -> None:
    """The second waits for the first batch: it runs in steps 3 and 4."""
    engine = make_engine(make_config("ft", num_slots=256))
    first, second = drive(engine, two_requests(), max_steps=9)
    assert (first.first_token_s, first.finish_s) == (1.0, 3.0)
    assert (second.first_token_s, second.finish_s) == (4.0, 5.0)
    means = engine.recorder.means(256)
    assert means is not None
    assert means.running_requests == 1


def test_output_of_one_token_ends_with_its_prompt() -> None:
    """The first token is the last."""
    for system in System:
        engine = make_engine(make_config(system.value, num_slots=256))
        (group,) = drive(engine, [make_request(0, 5, 1, sampling="n2")], max_steps=2)
        assert group.first_token_s == group.finish_s == 1.0


@pytest.mark.parametrize(
    ("window_s", "steps", "running"),
    [((0.0, 10.0), 3, 5 / 3), ((1.0, 2.0), 1, 2.0), ((0.0, 1.0), 1, 1.0), ((1.0, 2.5), 2, 2.0)],
)
def test_recorder_counts_steps_that_start_in_its_window(
    window_s: tuple[float, float], steps: int, running: float
) -> None:
    """The window includes its start and excludes its end."""
    engine = make_engine(make_config(num_slots=64), window_s=window_s)
    drive(engine, two_requests(), max_steps=9)
    means = engine.recorder.means(64)
    assert means is not None
    assert engine.recorder.num_steps == steps
    assert means.running_requests == pytest.approx(running)


def test_recorder_without_steps_has_no_means() -> None:
    """An empty window is not zero."""
    engine = make_engine(make_config(), window_s=(100.0, 200.0))
    drive(engine, two_requests(), max_steps=9)
    assert engine.recorder.means(64) is None


def test_recorded_memory_by_hand() -> None:
    """One request of 3 + 3 tokens in blocks of 4: 3, 4 and 5 tokens in 1, 1 and 2 blocks."""
    engine = make_engine(make_config(num_slots=64))
    drive(engine, [make_request(0, 3, 3)], max_steps=4)
    means = engine.recorder.means(64)
    assert means is not None
    assert means.token_pct == pytest.approx(100 * (3 + 4 + 5) / (3 * 64))
    assert means.internal_pct == pytest.approx(100 * (1 + 0 + 3) / (3 * 64))
    assert means.used_pct == pytest.approx(100 * (4 + 4 + 8) / (3 * 64))
    assert means.external_pct == pytest.approx(100 - means.used_pct)
    assert (means.reservation_pct, means.sharing_saving_pct) == (0, 0)


@pytest.mark.parametrize(
    ("system", "reserved", "chunk"),
    [("orca-oracle", 6, 8), ("orca-pow2", 7, 8), ("orca-max", 32, 32)],
)
def test_recorded_reservations_by_hand(system: str, reserved: int, chunk: int) -> None:
    """The same request in Orca: tokens to come are reserved, more is internal fragmentation."""
    engine = make_engine(make_config(system, num_slots=64, max_model_len=32))
    drive(engine, [make_request(0, 3, 3)], max_steps=4)
    means = engine.recorder.means(64)
    assert means is not None
    assert means.token_pct == pytest.approx(100 * 4 / 64)
    assert means.reservation_pct == pytest.approx(100 * 2 / 64)
    assert means.internal_pct == pytest.approx(100 * (reserved - 6) / 64)
    assert means.used_pct == pytest.approx(100 * chunk / 64)
    assert means.external_pct == pytest.approx(100 * (64 - reserved) / 64)


def test_sharing_is_saved_blocks() -> None:
    """Two sequences share 2 blocks in the prompt's step, then 1 of 2 each."""
    engine = make_engine(make_config(num_slots=64))
    drive(engine, [make_request(0, 6, 2, sampling="n2")], max_steps=4)
    means = engine.recorder.means(64)
    assert means is not None
    assert means.sharing_saving_pct == pytest.approx(100 * (2 / 4 + 1 / 4) / 2)


class Stopper:
    """Ends sequences early at given steps, as a model's end-of-sequence token does."""

    def __init__(self, stops: dict[int, list[int]]) -> None:
        self.stops = stops
        self.group: SequenceGroup | None = None

    def execute(self, batch: Batch) -> StepResult:
        assert self.group is not None
        indices = self.stops.get(batch.step, [])
        stopped: list[Sequence] = [self.group.sequences[i] for i in indices]
        return StepResult(1.0, [], stopped)


@pytest.mark.parametrize("system", [system.value for system in System])
def test_sequences_that_stop_early_free_their_memory(system: str) -> None:
    """One of three ends in step 1, the others in step 3 of 20: the group ends with them."""
    stopper = Stopper({1: [1], 3: [0, 2]})
    engine = make_engine(make_config(system, num_slots=256), stopper)
    group = stopper.group = engine.add_request(make_request(0, 6, 20, sampling="n3"))
    ended = [engine.step() for _ in range(2)]
    assert [s.index for s in group.running] == [0, 2]
    assert engine.scheduler.batch.num_seqs == 2
    engine.scheduler.kv.check_integrity()
    ended += [engine.step() for _ in range(2)]
    assert ended == [[], [], [], [group]]
    assert (group.status, group.finish_s) == (Status.FINISHED, 4.0)
    assert not engine.has_work
    assert engine.scheduler.batch.context_tokens == 0
    engine.scheduler.kv.check_integrity()


@pytest.mark.parametrize("system", [system.value for system in System])
def test_stopping_in_the_last_step_finishes_once(system: str) -> None:
    """The end-of-sequence token may be the last one allowed."""
    stopper = Stopper({2: [0]})
    engine = make_engine(make_config(system, num_slots=256), stopper)
    group = stopper.group = engine.add_request(make_request(0, 6, 3))
    ended = [engine.step() for _ in range(3)]
    assert ended == [[], [], [group]]


def test_group_of_several_is_swapped_even_if_one_is_left() -> None:
    """Its waiting place and its batch limit were checked for swapping, not for recomputing."""
    stopper = Stopper({1: [1, 2]})
    config = make_config(num_slots=128, max_batched_tokens=12)
    engine = make_engine(config, stopper)
    group = stopper.group = engine.add_request(make_request(0, 10, 20, sampling="n3"))
    for _ in range(5):
        engine.step()
    assert group.num_unfinished == 1
    engine.scheduler.batch.begin(5)
    engine.scheduler._preempt(group, 5)  # type: ignore[attr-defined]
    assert group.status is Status.SWAPPED


class Forker:
    """Replaces beam 1 by beam 0 after every step."""

    def __init__(self) -> None:
        self.group: SequenceGroup | None = None
        self.forked: list[list[int]] = []

    def execute(self, batch: Batch) -> StepResult:
        assert self.group is not None
        self.forked.append([sequence.index for sequence in batch.forked])
        return StepResult(1.0, [Fork(self.group, (0, 0))], [])


def test_forks_are_applied_after_their_step() -> None:
    """The executor hears of a table's replacement in the next step, but not after the last."""
    forker = Forker()
    engine = make_engine(make_config(), forker)
    group = forker.group = engine.add_request(make_request(0, 5, 3, sampling="beam2"))
    while engine.has_work:
        engine.step()
    assert forker.forked == [[], [1], [1]]
    assert group.finish_s == 3.0
    assert not engine.scheduler.batch.forked


def test_sequences_that_left_are_not_reported_as_forked() -> None:
    """A group that is forked and preempted at once has left; its table is not replaced."""
    forker = Forker()
    engine = make_engine(make_config(), forker)
    group = forker.group = engine.add_request(make_request(0, 5, 9, sampling="beam2"))
    engine.step()
    batch = engine.scheduler.batch
    assert batch.forked == [group.running[1]]
    batch.begin(1)
    engine.scheduler._preempt(group, 1)  # type: ignore[attr-defined]
    assert batch.forked == []
    assert batch.left == group.running


def test_shared_prefixes_that_crowd_out_a_request_end_the_run() -> None:
    """A request accepted before a prefix was registered may not fit beside it: said, not hung."""
    config = make_config(num_slots=64, share_prefix=True)
    engine, _ = make_content_engine(config)
    engine.add_request(make_request(0, 40, 2, prefix_len=36))
    engine.add_request(make_request(1, 40, 10))
    while engine.scheduler.running or engine.num_steps == 0:
        engine.step()
    with pytest.raises(UserError, match=r"request 1 does not fit beside 9 blocks.*--kv-slots"):
        engine.step()


def test_virtual_clock_never_goes_back() -> None:
    clock = VirtualClock()
    clock.advance(1.5)
    clock.wait_until(1.0)
    assert clock.now == 1.5
    clock.wait_until(2.0)
    assert clock.now == 2.0


def test_wall_clock_follows_the_wall() -> None:
    """Steps do not advance it; waiting does, and the past is no wait."""
    before = time.perf_counter()
    clock = WallClock()
    clock.advance(1e6)
    clock.wait_until(0.01)
    assert 0.01 <= clock.now <= time.perf_counter() - before + 1e-3
    clock.wait_until(0.0)
