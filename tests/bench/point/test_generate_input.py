"""Lines of `bench generate --input`: a request, or one error that names the line."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_values import JSON_VALUES

from bench.point.generate import read_lines, read_prompts
from bench.point.text import Tokenizer
from engines.core.errors import UserError

GOOD = {
    "prompt_token_ids": [5, 17, 3], "max_tokens": 4, "sampling": "n2", "temperature": 0.5,
    "top_p": 0.9, "ignore_eos": False,
}  # fmt: skip
KEYS = st.sampled_from([*GOOD, "prompt", "text"])


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(changes=st.dictionaries(KEYS, JSON_VALUES, min_size=1, max_size=2), second=st.booleans())
def test_any_values_are_a_request_or_an_error_with_the_line(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any], second: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "odd.jsonl"
    lines = [json.dumps(GOOD)] * second + [json.dumps({**GOOD, **changes})]
    path.write_text("\n".join(lines), encoding="utf-8")
    problem = ""
    try:
        request = read_prompts(read_lines(path), Tokenizer("opt-125m"))[-1].request
    except UserError as error:
        problem = str(error)
    if problem:
        assert f"odd.jsonl line {len(lines)}: " in problem
        return
    assert request.prompt_len == len(request.prompt_token_ids or ()) >= 1
    assert request.output_len >= 1
    assert 0 <= request.sampling.temperature < math.inf
    assert 0 < request.sampling.top_p <= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling": "beam3", "temperature": 0.0}, "top_p 0.9 counts only with a temperature"),
        ({"sampling": "beam3"}, "beam search does not sample: temperature 0.5"),
        ({"sampling": "n1", "temperature": 0}, "top_p 0.9 counts only with a temperature"),
        ({"temperature": 1e39}, "temperature must be 0 or from 1e-06 to 1e+06, got 1e+39"),
    ],
)
def test_what_would_draw_nothing_or_overflow_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    lines = [("line 1", json.dumps({**GOOD, **changes}))]
    with warnings.catch_warnings(action="error"), pytest.raises(UserError) as caught:
        read_prompts(lines, Tokenizer("opt-125m"))
    assert str(caught.value).startswith(f"line 1: {message}")


def test_a_file_of_prompts_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a pipe will do."""
    path = tmp_path / "prompts.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n" * 3)
    opened, original = [], Path.open

    def count(self: Path, *given: Any, **named: Any) -> Any:
        opened.append(self)
        return original(self, *given, **named)

    monkeypatch.setattr(Path, "open", count)
    assert len(read_prompts(read_lines(path), Tokenizer("opt-125m"))) == 3
    assert opened.count(path) == 1
