"""What of a trace is served, when, and what is said of the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.workloads.build import Workload, build_workload
from bench.workloads.replay import Selection, TooLong, ZeroOutput, replay
from bench.workloads.tables import csv_bytes, read_input
from bench.workloads.traces import our_columns, read_trace
from engines.core.errors import UserError

ROWS = ["0,100,10", "1,200,0", "2,1900,200", "3,300,30", "4,0,40", "5,400,50"]


def served(
    folder: Path, *rows: str, header: str = "arrival_s,input_len,output_len", **options: Any
) -> Workload:
    path = folder / "trace.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    rate, seed = options.pop("rate", 1.0), options.pop("seed", 0)
    trace = read_trace(read_input(path))
    return replay(trace, Selection(**options), rate=rate, seed=seed, max_model_len=2048)


def cut(folder: Path, **options: Any) -> Workload:
    settings = {"zero_output": ZeroOutput.DROP, "too_long": TooLong.DROP}
    return served(folder, *ROWS, **(settings | options))


def dropped(workload: Workload) -> dict[str, int]:
    assert workload.trace is not None
    return {name: count for name, count in workload.trace["dropped"].items() if count}


def test_a_trace_is_replayed_whole(tmp_path: Path) -> None:
    workload = served(tmp_path, "0.5,3,7", "10.5,4,9")
    assert workload.name == "trace"
    assert workload.arrival_s.tolist() == [0.5, 10.5]
    assert (workload.rate, workload.duration_s) == (2 / 10.5, 10.5)
    assert (workload.mean_input_len, workload.mean_output_len) == (3.5, 8.0)
    assert workload.files["trace"] in workload.source
    assert "trace.csv" in workload.source
    assert dropped(workload) == {}


def test_a_saved_workload_is_read_back_the_same(tmp_path: Path) -> None:
    made = build_workload("translation-1shot", rate=20.0, duration=100.0, seed=1)
    columns = {
        name: getattr(made, name) for name in ("arrival_s", "input_len", "output_len", "prefix_len")
    }
    path = tmp_path / "saved.csv.gz"
    path.write_bytes(csv_bytes(columns, compress=True))
    trace = read_trace(read_input(path))
    assert replay(trace, Selection(), rate=1, seed=0, max_model_len=2048).sha256 == made.sha256
    again = tmp_path / "again.csv"
    again.write_bytes(csv_bytes(our_columns(trace)))
    assert our_columns(read_trace(read_input(again))).keys() == columns.keys()


def test_requests_are_dropped_for_what_they_lack_and_counted(tmp_path: Path) -> None:
    workload = cut(tmp_path)
    assert workload.input_len.tolist() == [100, 300, 400]
    assert workload.arrival_s.tolist() == [0, 3, 5]
    assert workload.duration_s == 5.0
    assert dropped(workload) == {"zero_output": 2, "too_long": 1}


def test_requests_without_tokens_may_be_served_with_one(tmp_path: Path) -> None:
    workload = cut(tmp_path, zero_output=ZeroOutput.ONE)
    assert workload.input_len.tolist() == [100, 200, 300, 1, 400]
    assert workload.output_len.tolist() == [10, 1, 30, 40, 50]


@pytest.mark.parametrize(
    ("row", "lengths"),
    [
        ("0,1900,200,0", (1848, 200, 0)),
        ("0,5,9000,0", (1, 2047, 0)),
        ("0,3000,9,2500", (2039, 9, 2038)),
    ],
)
def test_long_requests_may_be_cut_to_the_context(
    tmp_path: Path, row: str, lengths: tuple[int, ...]
) -> None:
    """At the prompt first; a shared prefix stays shorter than its prompt."""
    header = "arrival_s,input_len,output_len,prefix_len"
    workload = served(tmp_path, row, "0,9,9,0", header=header, too_long=TooLong.TRUNCATE)
    columns = (workload.input_len, workload.output_len, workload.prefix_len)
    assert tuple(column[0] for column in columns) == lengths
    assert tuple(column[1] for column in columns) == (9, 9, 0)
    assert dropped(workload) == {"truncated": 1}


def test_the_time_is_cut_and_counts_from_its_start(tmp_path: Path) -> None:
    workload = cut(tmp_path, start=2.5, end=5.0)
    assert workload.arrival_s.tolist() == [0.5]
    assert dropped(workload) == {"outside": 4, "zero_output": 1}
    far = served(tmp_path, "0,1,1", "5000,1,1", "5001,1,1", start=10.0)
    assert far.arrival_s.tolist() == [0.0, 1.0]


def test_the_first_requests_are_served_faster(tmp_path: Path) -> None:
    workload = cut(tmp_path, limit=2, speed=4.0)
    assert workload.arrival_s.tolist() == [0.0, 0.75]
    assert workload.rate == 2 / 0.75
    assert dropped(workload)["beyond_limit"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"2 of 6 requests \(the first on line 3: 200 \+ 0 tokens\) .* --zero-output drop"),
        ({"zero_output": ZeroOutput.DROP},
         r"1 of 4 requests \(the first on line 4: 1900 \+ 200 tokens\) are longer than the model's "
         "context of 2048 tokens: give --too-long drop"),
        ({"start": 9.0}, r"no request is left \(6 outside\)"),
    ],
)  # fmt: skip
def test_what_nobody_decided_is_an_error(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        served(tmp_path, *ROWS, **options)
    assert str(tmp_path / "trace.csv") in str(caught.value)


def test_the_hash_covers_the_file_and_the_options(tmp_path: Path) -> None:
    """Two results of one file are told apart, and the file's own hash is kept."""
    workloads = [cut(tmp_path, **options) for options in ({}, {"limit": 2}, {"speed": 2.0})]
    assert len({workload.source for workload in workloads}) == 3
    assert len({workload.files["trace"] for workload in workloads}) == 1
    assert cut(tmp_path, limit=2).source == workloads[1].source


@pytest.mark.parametrize(("rows", "duration_s"), [(["0,5,1"], 1.0), (["7,5,1", "7,5,1"], 8.0)])
def test_requests_that_come_at_once_take_a_second(
    tmp_path: Path, rows: list[str], duration_s: float
) -> None:
    workload = served(tmp_path, *rows)
    assert workload.duration_s == duration_s
    assert workload.rate == len(rows) / duration_s


def test_lengths_without_arrivals_get_those_of_a_poisson_process(tmp_path: Path) -> None:
    rows = [f"{n},7" for n in range(1, 2001)]

    def arrivals(**options: Any) -> Workload:
        return served(tmp_path, *rows, header="num_prefill_tokens,num_decode_tokens", **options)

    workload = arrivals(rate=4.0)
    gaps = np.diff(workload.arrival_s)
    assert gaps.mean() == pytest.approx(1 / 4, rel=0.1)
    assert gaps.std() == pytest.approx(1 / 4, rel=0.1)
    assert workload.input_len.tolist() == [*range(1, 2001)]
    assert workload.trace is not None
    assert workload.trace["notes"] == ["no arrivals in the file: Poisson at 4 requests/s (--rate)"]
    assert arrivals(rate=4.0).sha256 == workload.sha256 != arrivals(rate=4.0, seed=1).sha256
