import hashlib
import random

import numpy as np
import pytest

from bench.workloads.arrivals import poisson_arrivals
from bench.workloads.assumed import assumptions
from bench.workloads.build import WORKLOADS, Stream, build_workload, chat_statistics
from bench.workloads.conversations import chat_lengths, interleave
from bench.workloads.lengths import Lengths
from engines.core.errors import UserError
from engines.core.request import Request
from engines.core.sampling import SamplingParams


def build(name="sharegpt", rate=2.0, duration=600.0, seed=0, **more):
    return build_workload(name, rate=rate, duration=duration, seed=seed, **more)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_arrivals_are_poisson():
    arrivals = poisson_arrivals(30.0, 5000.0, seed=0)
    gaps = np.diff(arrivals)
    assert len(arrivals) == pytest.approx(150_000, rel=0.01)
    assert gaps.mean() == pytest.approx(1 / 30, rel=0.01)
    assert gaps.std() == pytest.approx(1 / 30, rel=0.02)
    # Not clipped: among n exponential gaps the longest is near ln(n) means.
    assert gaps.max() * 30 > 9
    counts = np.histogram(arrivals, bins=5000, range=(0, 5000))[0]
    assert counts.var() == pytest.approx(counts.mean(), rel=0.06)
    assert (gaps >= 0).all()
    assert arrivals[0] >= 0
    assert arrivals[-1] < 5000


def test_arrivals_are_those_of_the_original():
    np.random.seed(3)  # as the original artifact does it
    counts = np.random.poisson(lam=2.0 * (10 / 1000), size=600 * 100)
    expected = [i * (10 / 1000) for i, n in enumerate(counts) for _ in range(n)]
    assert poisson_arrivals(2.0, 600.0, seed=3).tolist() == expected


def test_real_lengths_are_the_head_of_the_file_shuffled_as_in_the_original(tmp_path):
    pairs = [(n, 2 * n) for n in range(1, 500)] + [(2000, 48)]  # the last one is too long
    path = tmp_path / "real.csv"
    path.write_text("input_len,output_len\n" + "".join(f"{a},{b}\n" for a, b in pairs))
    workload = build(rate=1.0, duration=300.0, seed=5, lengths=path)
    head = (pairs[:-1] * 2)[: len(workload)]
    random.seed(5)
    random.shuffle(head)
    assert list(zip(workload.input_len, workload.output_len, strict=True)) == head


@pytest.mark.parametrize("name", WORKLOADS)
def test_workloads_are_reproducible_and_well_formed(name):
    workload = build(name)
    assert len(workload) == pytest.approx(1200, rel=0.15)
    assert workload.sha256 == build(name).sha256
    assert workload.sha256 != build(name, seed=1).sha256
    assert (np.diff(workload.arrival_s) >= 0).all()
    assert workload.arrival_s.dtype == np.float64
    for column in (workload.input_len, workload.output_len, workload.prefix_len):
        assert column.dtype == np.int32
        assert len(column) == len(workload)
    assert (workload.input_len + workload.output_len).max() <= 2048
    assert (workload.prefix_len < workload.input_len).all()
    assert workload.output_len.min() >= 1


@pytest.mark.parametrize("name", ["sharegpt", "alpaca", "translation-1shot"])
def test_another_rate_keeps_the_lengths(name):
    slow, fast = build(name, rate=1.0), build(name, rate=2.0)
    assert len(slow) < len(fast)
    assert (fast.input_len[: len(slow)] == slow.input_len).all()
    assert (fast.output_len[: len(slow)] == slow.output_len).all()


def test_requests_come_in_order_with_plain_numbers():
    workload = build("translation-1shot", rate=10.0)
    sampling = SamplingParams()
    requests = list(workload.requests(sampling))
    assert [r.request_id for r in requests] == list(range(len(workload)))
    last = requests[-1]
    assert last == Request(
        len(workload) - 1, float(workload.arrival_s[-1]), int(workload.input_len[-1]),
        int(workload.output_len[-1]), sampling, 80,
    )  # fmt: skip
    assert type(last.prompt_len) is int
    assert type(last.arrival_s) is float


def test_sources_say_what_lengths_these_are(tmp_path):
    path = tmp_path / "real.csv"
    path.write_text("input_len,output_len\n5,7\n")
    workload = build("alpaca", lengths=path)
    assert "real lengths from real.csv" in workload.source
    assert hashlib.sha256(path.read_bytes()).hexdigest() in workload.source
    assert (workload.mean_input_len, workload.mean_output_len) == (5, 7)
    assert "shipped" in build("sharegpt").source
    assert "synthetic" in build("alpaca").source
    assert "synthetic" in build("translation-5shot").source
    assert "conversations" in build("chat").source


@pytest.mark.parametrize(
    ("name", "prefix"), [("translation-1shot", 80), ("translation-5shot", 341)]
)
def test_translation_puts_a_shared_prefix_before_each_sentence(name, prefix):
    workload = build(name, rate=100.0)
    sentence = workload.input_len - prefix
    assert (workload.prefix_len == prefix).all()
    assert sentence.min() >= 1
    assert sentence.mean() == pytest.approx(116 / 4.5 * 1.3, rel=0.02)
    assert workload.mean_output_len == pytest.approx(110 / 4.5 * 1.8, rel=0.02)
    logs = np.log(np.maximum(sentence, 1)), np.log(workload.output_len)
    assert np.corrcoef(*logs)[0, 1] == pytest.approx(0.9, abs=0.02)


def test_interleaving_serves_each_conversation_to_its_end():
    _, rounds = chat_statistics().draw(20_000, of_conversations=rng(), of_turns=rng())
    order = interleave(rounds, generator=rng(1))
    assert (np.bincount(order) == rounds).all()
    _, first_arrivals = np.unique(order, return_index=True)
    assert (np.diff(first_arrivals) > 0).all()  # started in order
    early = first_arrivals[first_arrivals < 5000]
    assert len(early) / 5000 == pytest.approx(0.5, abs=0.03)


def test_open_conversations_are_equally_likely_to_go_on():
    order = interleave(np.full(3, 10_000), generator=rng())
    turns = order[100:10_000]  # all three are open, none is finished
    assert np.bincount(turns) / len(turns) == pytest.approx(1 / 3, abs=0.02)


def test_random_streams_are_independent():
    draws = [tuple(stream.generator(0).random(4)) for stream in Stream]
    assert len(set(draws)) == len(Stream)
    assert Stream.LENGTHS.generator(0, 1).random() != Stream.LENGTHS.generator(0).random()


def test_one_long_conversation_is_one_request_after_the_other():
    order = interleave(np.array([5]), generator=rng())
    assert order.tolist() == [0] * 5


def test_an_answer_stands_whole_in_the_history():
    turns = Lengths(np.array([3, 4, 5], np.int32), np.array([60, 7, 9], np.int32))
    chat = chat_lengths(turns, np.array([0, 1, 0]), context=200)
    assert chat.input_len.tolist() == [3, 4, 3 + 60 + 5]
    cut = chat_lengths(turns, np.array([0, 1, 0]), context=40)
    assert cut.output_len.tolist() == [40 - 20 - 8, 7, 9]
    assert cut.input_len.tolist() == [3, 4, 20]
    least = chat_lengths(turns, np.array([0, 1, 0]), context=4)
    assert least.output_len.tolist() == [1, 1, 1]


def test_chat_fits_a_smaller_context():
    workload = build("chat", max_model_len=512)
    assert workload.input_len.max() == 256
    assert (workload.input_len + workload.output_len).max() <= 512


def test_a_smaller_context_drops_long_requests():
    workload = build("sharegpt", max_model_len=256)
    assert (workload.input_len + workload.output_len).max() < 256


def test_assumptions_are_complete_sentences_of_provenance():
    table = assumptions()
    assert {a.workload for a in table} >= {"alpaca", "chat", "translation"}
    assert all(a.source and a.name for a in table)
    assert len({(a.workload, a.name) for a in table}) == len(table)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "sharegtp"}, "did you mean sharegpt"),
        ({"rate": 1e9, "duration": 1e9}, "lower the rate"),
        ({"rate": 1e-6, "duration": 1.0}, "no request arrives"),
        ({"name": "translation-5shot", "max_model_len": 128}, "hardly any request"),
    ],
)
def test_bad_settings_are_user_errors(options, message):
    with pytest.raises(UserError, match=message):
        build(**options)
