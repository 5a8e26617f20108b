"""Lines of `bench generate --input`: a request, or one error that names the line."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_values import JSON_VALUES

from bench.point.generate import read_job, read_lines
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
        request = read_job(read_lines(path), Tokenizer("opt-125m")).requests[-1]
    except UserError as error:
        problem = str(error)
    if problem:
        assert f"odd.jsonl line {len(lines)}: " in problem
        return
    assert request.prompt_len == len(request.prompt_token_ids or ()) >= 1
    assert request.output_len >= 1
    assert 0 <= request.sampling.temperature < math.inf
    assert 0 < request.sampling.top_p <= 1
