import gzip
import hashlib

import numpy as np
import pytest

from bench.workloads import build_workload
from bench.workloads.traces import read_trace
from engines.core.errors import UserError

HEADER = "arrival_s,input_len,output_len\n"


def replay(path, **more):
    return build_workload("sharegpt", rate=1.0, duration=1.0, seed=0, trace=path, **more)


def test_a_trace_is_replayed_whole(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("output_len,arrival_s,note,input_len\r\n7,0.5,a,3\r\n9,100,b,4\r\n\n")
    workload = replay(path)
    assert workload.name == "trace"
    assert workload.arrival_s.tolist() == [0.5, 100.0]
    assert workload.input_len.tolist() == [3, 4]
    assert workload.output_len.tolist() == [7, 9]
    assert workload.prefix_len.tolist() == [0, 0]
    assert "mine.csv" in workload.source
    assert hashlib.sha256(path.read_bytes()).hexdigest() in workload.source


def test_a_trace_may_be_compressed_and_share_a_prefix(tmp_path):
    path = tmp_path / "mine.csv.gz"
    path.write_bytes(gzip.compress(b"arrival_s,input_len,output_len,prefix_len\n0,90,4,80\n"))
    assert replay(path).prefix_len.tolist() == [80]


def test_a_saved_workload_is_read_back_the_same(tmp_path):
    made = build_workload("sharegpt", rate=20.0, duration=100.0, seed=1)
    rows = zip(made.arrival_s.tolist(), made.input_len, made.output_len, strict=True)
    path = tmp_path / "saved.csv"
    path.write_text(HEADER + "".join(f"{a!r},{i},{o}\n" for a, i, o in rows))
    assert replay(path).sha256 == made.sha256


def test_equal_arrivals_and_the_full_context_are_allowed(tmp_path):
    path = tmp_path / "edge.csv"
    path.write_text(HEADER + "1,2000,48\n1,1,1\n")
    trace = read_trace(path, max_model_len=2048)
    assert np.array_equal(trace.arrival_s, [1, 1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty.*arrival_s,input_len,output_len"),
        (HEADER + "0,1,1\nsoon,1,1\n", "line 3: arrival_s must be a finite number.*'soon'"),
        (HEADER + "-1,1,1\n", "line 2: arrival_s must be a finite number of at least 0, got '-1'"),
        (HEADER + "nan,1,1\n", "line 2: arrival_s"),
        (
            HEADER + "inf,1,1\n",
            "line 2: arrival_s must be a finite number .*'inf'",
        ),
        (HEADER + "0,1,1\n5,1,1\n4,1,1\n", "line 4: arrival_s 4 is before.*sort"),
        (HEADER + "0,1,1\n1,2000,49\n", "line 3: input_len \\+ output_len is 2049.*2048.*shorten"),
        ("arrival_s,input_len,output_len,prefix_len\n0,5,5,5\n", "line 2: prefix_len must be less"),
    ],
)
def test_malformed_traces_name_file_and_line(tmp_path, text, message):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        replay(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_trace_and_lengths_exclude_each_other(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text(HEADER + "0,1,1\n")
    with pytest.raises(UserError, match="not both"):
        replay(path, lengths=path)
