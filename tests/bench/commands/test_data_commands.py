"""`bench data`: traces are shown and converted, texts are counted."""

from __future__ import annotations

import gzip
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from command_line import passed, refused
from published_traces import FORMATS, ROWS
from small_tokenizer import write_sharegpt, write_tokenizer

data = partial(passed, "data")


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace"
    path.write_text(FORMATS["mooncake"](ROWS))
    return path


def test_inspect_shows_what_a_trace_is_like(trace: Path, tmp_path: Path) -> None:
    picture = tmp_path / "trace.png"
    result = data("inspect", trace, "--json", "--draw", picture)
    found = json.loads(result.stdout)
    gaps = np.diff([arrival_s for arrival_s, _, _ in ROWS])
    assert (found["format"], found["requests"]) == ("Mooncake", 5)
    assert found["rate"] == pytest.approx(4 / 10)
    assert found["burstiness"] == pytest.approx(gaps.std() / gaps.mean())
    assert found["input_len"]["mean"] == 350
    assert found["output_len"]["p50"] == 55
    assert (found["output_len"]["p100"], found["output_len"]["zeros"]) == (109, 0)
    assert found["correlation"] == pytest.approx(0.2)
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", ["pdf", "png"])
@pytest.mark.parametrize(
    "text", ["input_len,output_len\n5,7\n", "arrival_s,input_len,output_len\n0,0,0\n"]
)
def test_the_smallest_traces_can_be_inspected(tmp_path: Path, text: str, kind: str) -> None:
    path, picture = tmp_path / "x", tmp_path / f"x.{kind}"
    path.write_text(text)
    result = data("inspect", path, "--draw", picture)
    assert "requests" in result.stdout
    first = picture.read_bytes()
    data("inspect", path, "--draw", picture)
    assert picture.read_bytes() == first


def test_convert_writes_our_format(trace: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "ours.csv.gz"
    result = data("convert", trace, out)
    assert result.stdout == f"{out}\n"
    assert gzip.decompress(out.read_bytes()).decode() == FORMATS["ours"](ROWS)


def test_convert_takes_columns_and_tells_what_it_did(tmp_path: Path) -> None:
    path, out = tmp_path / "x.csv", tmp_path / "ours.csv"
    path.write_text("when,in,out\n90000,5,7\n61000,6,8\n")
    words = ["--trace-column", "arrival_ms=when", "--trace-column", "input=in"]
    result = data("convert", path, out, *words, "--trace-column", "output=out")
    assert result.stderr == "sorted by arrival: 1 requests were earlier than the one above\n"
    assert out.read_text() == "arrival_s,input_len,output_len\n0.0,6,8\n29.0,5,7\n"


def test_convert_counts_the_tokens_of_conversations(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    source, out = write_sharegpt(tmp_path / "v3.json"), tmp_path / "lengths.csv"
    folder = write_tokenizer(tmp_path / "tokenizer")
    result = data("convert", source, out, "--tokenizer", folder, "--quiet")
    assert "2 turns of 2 conversations\n" in result.stderr
    assert out.read_text() == "input_len,output_len\n4,3\n3,6\n"
    data("convert", source, out, "--tokenizer", folder, "--conversations", "--quiet")
    assert out.read_text() == "conversation,input_len,output_len\n0,4,3\n0,2,5\n1,3,6\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["inspect", "none"], "does not exist"),
        (["inspect", "trace", "--draw", "x.svg"], "a name ending in .pdf or .png, got x.svg"),
        (["inspect", "trace", "--trace-column", "x"], "takes KEY=NAME"),
        (["convert", "trace", "out.csv", "--tokenizer", "."], "has no text"),
        (["convert", "trace", "out.csv", "--conversations"], "has no text"),
        (["convert", "v3.json", "out.csv"], "give --tokenizer DIR"),
        (["inspect", "v3.json"], "'bench data convert FILE OUT --tokenizer DIR'"),
        (["convert", "trace", "trace/out.csv"], "is not a directory"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    trace: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(trace.parent)
    write_sharegpt(Path("v3.json"))
    before = sorted(Path().iterdir())
    assert message in refused("data", *words)
    assert sorted(Path().iterdir()) == before
