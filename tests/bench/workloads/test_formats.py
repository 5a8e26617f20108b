"""Traces as they are published: each form is read, and what is wrong in it is named by its line."""

from __future__ import annotations

import csv
import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from published_traces import FORMATS, ROWS, objects, table

from bench.workloads.formats import parse_columns
from bench.workloads.tables import read_input
from bench.workloads.traces import Trace, read_trace
from engines.core.errors import UserError

BOM = b"\xef\xbb\xbf"
FORMS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "gzip": gzip.compress,
    "BOM": lambda data: BOM + data,
    "CRLF": lambda data: data.replace(b"\n", b"\r\n"),
    "no final newline": lambda data: data.rstrip(b"\n"),
    "blank lines at the end": lambda data: data + b"\n\n",
    "all at once": lambda data: gzip.compress(BOM + data.replace(b"\n", b"\r\n")[:-2]),
}
OURS = "arrival_s,input_len,output_len\n"


def read(folder: Path, content: bytes | str, *columns: str, name: str = "trace") -> Trace:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_trace(read_input(path), parse_columns(columns))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", FORMATS)
def test_every_published_form_is_read(tmp_path: Path, name: str, form: str) -> None:
    """By its columns alone: the file's name says nothing."""
    trace = read(tmp_path, FORMS[form](FORMATS[name](ROWS).encode()))
    assert trace.arrival_s is not None
    assert trace.arrival_s.tolist() == [arrival_s for arrival_s, _, _ in ROWS]
    assert (len(trace), trace.input_len.mean(), trace.output_len.mean()) == (5, 350.0, 58.8)
    assert trace.line.tolist() == [n + (2 if trace.source not in JSON else 1) for n in range(5)]
    assert not trace.notes


JSON = ("Mooncake", "Qwen-Bailian", "LLMServingSim")


def test_a_hundred_nanoseconds_survive(tmp_path: Path) -> None:
    rows = [("2023-11-16 18:15:46.6805900", 1, 1), ("2023-11-16 18:15:46.6805901", 1, 1)]
    trace = read(tmp_path, table("TIMESTAMP,ContextTokens,GeneratedTokens", rows))
    assert trace.arrival_s is not None
    assert trace.arrival_s[1] == 1e-7


def test_times_of_day_may_cross_midnight_and_zones(tmp_path: Path) -> None:
    rows = [("2024-02-28T23:59:59Z", 1, 1), ("2024-02-29 02:00:00+02:00", 1, 1)]
    trace = read(tmp_path, table("TIMESTAMP,ContextTokens,GeneratedTokens", rows))
    assert trace.arrival_s is not None
    assert trace.arrival_s.tolist() == [0.0, 1.0]


@pytest.mark.parametrize(("first", "lead"), [(0.5, 0.5), (60.0, 60.0), (60.5, 0.0), (1.7e9, 0.0)])
def test_a_trace_begins_near_0(tmp_path: Path, first: float, lead: float) -> None:
    """A short pause before the first request is part of a trace; an epoch is not."""
    trace = read(tmp_path, OURS + f"{first},1,1\n{first + 2.5},1,1\n")
    assert trace.arrival_s is not None
    assert trace.arrival_s.tolist() == [lead, lead + 2.5]


@pytest.mark.parametrize("name", FORMATS)
def test_arrivals_out_of_order_are_sorted_and_told(tmp_path: Path, name: str) -> None:
    """Those of equal times stay in the order of the file."""
    order = [3, 1, 2, 4, 0]
    trace = read(tmp_path, FORMATS[name]([ROWS[n] for n in order]))
    assert trace.arrival_s is not None
    assert (np.diff(trace.arrival_s) >= 0).all()
    assert trace.input_len.tolist() == [i for _, i, _ in ROWS]
    assert trace.notes == ("sorted by arrival: 2 requests were earlier than the one above",)


def test_quoted_fields_may_hold_commas_and_lines(tmp_path: Path) -> None:
    rows = [(0, "a, b", 5, 7), (1, 'say "no"\nor not', 6, 8)]
    text = table("arrival_s,note,input_len,output_len", rows, csv.QUOTE_ALL)
    assert read(tmp_path, text).output_len.tolist() == [7, 8]
    with pytest.raises(UserError, match=r"line 4: 'output_len' must be a whole"):
        read(tmp_path, text.replace('"8"', '"x"'))


def test_zeros_and_whole_floats_are_lengths(tmp_path: Path) -> None:
    trace = read(tmp_path, OURS + "0,10.0,0\n1, 1e2 ,0.0\n")
    assert trace.input_len.tolist() == [10, 100]
    assert trace.output_len.tolist() == [0, 0]


@pytest.mark.parametrize(
    "names",
    [*("input_len,output_len", "num_prefill_tokens,num_decode_tokens"),
     *("ContextTokens,GeneratedTokens", "prompt_size,token_size")],
)  # fmt: skip
def test_lengths_without_arrivals_are_known_too(tmp_path: Path, names: str) -> None:
    trace = read(tmp_path, table(names, [(5, 7), (6, 8)]))
    assert trace.arrival_s is None
    assert trace.input_len.tolist() == [5, 6]


@pytest.mark.parametrize(
    ("key", "seconds"), [("arrival", 1), ("arrival_ms", 1e3), ("arrival_us", 1e6)]
)
@pytest.mark.parametrize("form", ["csv", "json"])
def test_other_columns_are_named_by_the_user(
    tmp_path: Path, key: str, seconds: float, form: str
) -> None:
    rows = [{"t": 0, "in": 5, "out": 7, "shared": 2}, {"t": 3, "in": 6, "out": 8, "shared": 0}]
    text = (
        objects(rows) if form == "json" else table("t,in,out,shared", [[*r.values()] for r in rows])
    )
    trace = read(tmp_path, text, f"{key}=t", "input=in", "output=out", "prefix=shared")
    assert trace.arrival_s is not None
    assert trace.arrival_s.tolist() == [0, 3 / seconds]
    assert trace.prefix_len.tolist() == [2, 0]


def test_one_column_of_a_known_format_is_replaced(tmp_path: Path) -> None:
    text = FORMATS["burstgpt-3"](ROWS)
    trace = read(tmp_path, text, "output=Elapsed time")
    assert trace.output_len.tolist() == [43] * 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["time=t"], "KEY=NAME"),
        (["arrival"], "KEY=NAME"),
        (["input="], "KEY=NAME"),
        (["input=a", "input=b"], "each KEY once"),
        (["arrival=a", "arrival_ms=b"], "two columns of arrivals"),
    ],
)
def test_columns_are_named_by_known_keys_once(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_columns(words)


JSON_ROW = '{"timestamp": 0, "input_length": 1, "output_length": 1}\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: the header is empty: it must name columns such as arrival_s,input_len"),
        ("\n", "line 1: the header is empty"),
        (
            "a,b\n1,2\n",
            "line 1: no known columns in 'a,b': give .*BurstGPT.* --trace-column arrival",
        ),
        (OURS, "no rows"),
        (OURS + "0,1,1\nsoon,1,1\n", "line 3: 'arrival_s' must be a finite number, got 'soon'"),
        (OURS + "-1,1,1\n", "line 2: 'arrival_s' must be at least 0, got '-1'"),
        (OURS + "nan,1,1\n", "line 2: 'arrival_s' must be a finite number, got 'nan'"),
        (OURS + "1e999,1,1\n", "line 2: 'arrival_s' must be a finite number"),
        (OURS + "2023-01-01 00:00:00,1,1\n3,1,1\n", "line 3: 'arrival_s' must be a time such as"),
        (OURS + "2023-02-30 00:00:00,1,1\n", "line 2: 'arrival_s' must be a time"),
        (OURS + "0,1,1\n\n5,1,2.5\n", "line 4: 'output_len' must be a whole number .*'2.5'"),
        (OURS + "0,-1,1\n", "line 2: 'input_len' must be a whole number from 0 to 2147483647"),
        (OURS + "0,1_0,1\n", "line 2: 'input_len' must be a whole number"),
        (OURS + "0,٣,1\n", "line 2: 'input_len' must be a whole number"),
        (OURS + "0,\uff13,1\n", "line 2: 'input_len' must be a whole number"),
        (OURS + "0,007,1\n", "line 2: 'input_len' must be a whole number"),
        (OURS + "0,+5,1\n", "line 2: 'input_len' must be a whole number"),
        (OURS + "0,1e999,1\n", "line 2: 'input_len' must be a whole number"),
        (OURS + "0,99999999999,1\n", "line 2: 'input_len' must be a whole number"),
        (OURS + "0,,1\n", "line 2: 'input_len' must be a whole number .* got ''"),
        (OURS + "0,\x1b[31m,1\n", r"line 2: 'input_len' must be .* got '\\x1b\[31m'"),
        (OURS + "0,1\n", "line 2: 3 fields expected, got 2"),
        (OURS + "0,1,1,1\n", "line 2: 3 fields expected, got 4"),
        (OURS + '0,"1,1\n', "line 2: "),
        ("arrival_s,input_len,output_len,input_len\n0,1,1,1\n", "'input_len' is named twice"),
        ("arrival_s,input_len,output_len,prefix_len\n0,5,5,5\n", "line 2: prefix_len must be less"),
        ("{", "line 1: not valid JSON: "),
        ('{"a": 1}\n', "line 1: no known columns in 'a'"),
        (JSON_ROW + "{]\n", "line 2: not valid JSON: .* at column 2"),
        (JSON_ROW + "[1]\n", "line 2: expected a JSON object, got \\[1\\]"),
        (JSON_ROW + '{"timestamp": 0}\n', "line 2: 'input_length' is missing"),
        (JSON_ROW.replace("1", "true", 1), "line 1: 'input_length' must be .* got True"),
        (JSON_ROW.replace("1", "null", 1), "line 1: 'input_length' must be .* got None"),
        (JSON_ROW.replace("1", "1" * 400, 1), "line 1: 'input_length' must be .* got 1+"),
        (JSON_ROW.replace("1", "1" * 5000, 1), "line 1: not valid JSON: a number too long"),
        (JSON_ROW + '{"a": ' + "[" * 100_000 + "\n", "line 2: not valid JSON"),
        ('[{"conversations": []}]', "'bench data convert FILE OUT --tokenizer DIR'"),
    ],
)
def test_malformed_traces_name_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "trace"))
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).isprintable()


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no column 'time' for arrival: got 'arrival_s,input_len"):
        read(tmp_path, OURS + "0,1,1\n", "arrival=time")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"arrival_s,input_len,output_len\n" + b"0,1,1\n" * 99)[:-9], "whole gzip"),
        (gzip.compress(b"arrival_s,input_len,output_len\n0,1,1\n") + b"more", "whole gzip file"),
        (b"\x1f\x8b\x00", "is not a whole gzip file"),
        (b"\xff\xfe\x00\x80", "is not a text file in UTF-8"),
    ],
    ids=["cut short", "followed by more", "a header alone", "binary"],
)
def test_unreadable_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, content)


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    """It could not be read again, so that a result could not be checked against it."""
    os.mkfifo(tmp_path / "pipe")
    for name, message in (("pipe", "not a regular file"), (".", "not a regular"), ("x", "cannot")):
        with pytest.raises(UserError, match=message):
            read_input(tmp_path / name)
    with pytest.raises(UserError, match="cannot read"):
        read_input(Path("a\0b"))


def test_progress_while_reading(tmp_path: Path) -> None:
    shares: list[float] = []
    path = tmp_path / "long.csv"
    path.write_text(OURS + "0,1,1\n" * 100_000)
    trace = read_trace(read_input(path), on_progress=shares.append)
    assert len(trace) == 100_000
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] <= 1


def test_json_strings_may_hold_numbers(tmp_path: Path) -> None:
    row = {"timestamp": "0", "input_length": "5", "output_length": 7.0}
    trace = read(tmp_path, json.dumps(row))
    assert (trace.input_len.tolist(), trace.output_len.tolist()) == ([5], [7])
