"""Damaged traces of every form are refused in a line or read right; converting changes nothing."""

from __future__ import annotations

import gzip
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published_traces import FORMATS, ROWS

from bench.point.serve import run_point
from bench.point.spec import PointSpec
from bench.results.point_files import METRICS, REQUESTS, write_point
from bench.workloads.replay import Selection, TooLong, ZeroOutput, replay
from bench.workloads.tables import InputFile, csv_bytes, read_input
from bench.workloads.traces import our_columns, read_trace
from engines.core.errors import UserError

IN_PROCESS = 950  # of each form
ODD = [
    b"", b"\0", b"\n", b"\r", b"\r\n", b'"', b"'", b",", b";", b"\t", b" ", b"{", b"}", b"[", b"]",
    b":", b"-", b"-1", b"0", b"1e9", b"1e999", b"nan", b"inf", b"null", b"true", b"9" * 30,
    b"9" * 5000, b"1_0", b"0x10", b"1.5", b".", b"\xff", b"\xef\xbb\xbf", "٣".encode(), b"\x1b[2J",
    b"\\u0000", b"2023-13-45 99:99:99", b"0000-00-00 00:00:00", b"2262-01-01 00:00:00.123456789",
    b"input_len", b"chat_id", b"prefix_len", b"[" * 2000, b'{"a":' * 500, b"\x1f\x8b",
]  # fmt: skip


def mutated(form: str, seed: int) -> bytes:
    """A file of the published form with up to three damages, perhaps compressed before or after."""
    draw = random.Random(f"{form} {seed}")
    data = FORMATS[form](ROWS).encode()
    data = gzip.compress(data, mtime=0) if draw.random() < 0.1 else data
    for _ in range(draw.randint(1, 3)):
        first = draw.randrange(len(data) + 1)
        last = min(len(data), first + draw.choice([0, 1, 1, 5, 30]))
        lines = data.splitlines(keepends=True)
        match draw.randrange(6):
            case 0:
                data = data[:first] + draw.choice(ODD) + data[last:]
            case 1:
                data = data[:first] + bytes([draw.randrange(256)]) + data[last:]
            case 2:
                data = data[:first] + data[last:]
            case 3:
                data = data[:first]
            case 4:
                draw.shuffle(lines)
                data = b"".join(lines)
            case _:
                data = b"".join(line for line in lines for _ in range(draw.choice([0, 1, 1, 2])))
    return gzip.compress(data, mtime=0) if draw.random() < 0.05 else data


@pytest.mark.parametrize("form", FORMATS)
def test_damages_are_refused_in_a_line_or_read_right(form: str) -> None:
    """10,450 in all: no other exception, and what is read keeps every promise of a workload."""
    read = 0
    for seed in range(IN_PROCESS):
        selection = Selection(
            too_long=[*TooLong][seed % 3], zero_output=[*ZeroOutput][seed // 3 % 3]
        )
        refusal = ""
        try:
            trace = read_trace(InputFile(Path("trace"), mutated(form, seed)))
            workload = replay(trace, selection, rate=1.0, seed=0, max_model_len=2048)
        except UserError as error:
            refusal = str(error)
        if refusal:
            assert refusal.startswith("trace")
            assert refusal.isprintable(), ascii(refusal)
            assert len(refusal) < 500
            continue
        read += 1
        assert 0 < len(workload) <= len(trace)
        assert (np.diff(workload.arrival_s) >= 0).all()
        assert np.isfinite(workload.arrival_s).all()
        assert workload.arrival_s[0] >= 0
        assert 0 < workload.duration_s < np.inf
        assert min(workload.input_len.min(), workload.output_len.min()) >= 1
        total = workload.input_len.astype(np.int64) + workload.output_len
        assert total.max() <= 2048
        assert (workload.prefix_len < workload.input_len).all()
    assert 0.05 * IN_PROCESS < read < 0.95 * IN_PROCESS  # the damages are neither all nor none


rows = st.lists(
    st.tuples(
        st.integers(0, 400).map(lambda quarter: quarter / 4),
        st.integers(1, 1500),
        st.integers(0, 1500),
    ),
    min_size=1,
    max_size=12,
)
options = st.fixed_dictionaries(
    {"too_long": st.sampled_from(["drop", "truncate"]),
     "zero_output": st.sampled_from(["drop", "one"])},
    optional={"limit": st.integers(1, 9), "speed": st.sampled_from([0.5, 3.0]),
              "start": st.sampled_from([0.0, 5.0]), "end": st.sampled_from([50.0, 99.0])},
)  # fmt: skip


def result_of(folder: Path, content: bytes, given_options: dict[str, Any]) -> dict[str, bytes]:
    """The result's files that are equal on every run, or why there is none."""
    folder.mkdir(exist_ok=True)
    path = folder / "trace"
    path.write_bytes(content)
    spec = PointSpec(system="astra", model="opt-125m", trace=str(path), **given_options)
    try:
        outcome = run_point(spec)
    except UserError as error:
        return {"error": str(error).replace(str(path), "").encode()}
    write_point(folder, spec, outcome, provenance={})
    return {name: (folder / name).read_bytes() for name in (REQUESTS, METRICS)}


@settings(max_examples=40, deadline=None)
@given(form=st.sampled_from(list(FORMATS)), rows=rows, given_options=options)
def test_a_converted_trace_gives_byte_equal_results(
    tmp_path_factory: pytest.TempPathFactory, form: str, rows: Any, given_options: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("converted")
    original = FORMATS[form](rows).encode()
    expected = result_of(folder / "original", original, given_options)
    trace = read_trace(read_input(folder / "original" / "trace"))
    converted = csv_bytes(our_columns(trace), compress=True)
    assert result_of(folder / "converted", converted, given_options) == expected
