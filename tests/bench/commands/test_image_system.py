"""Each image serves its own system: the variable that its Dockerfile sets."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from command_line import passed, refused

ROOT = Path(__file__).parents[3]
RUN = ("run", "--backend", "sim", "--duration", "20", "--json", "--quiet")


@pytest.mark.parametrize(
    ("image", "system"), [("astra", "astra"), ("orca", "orca-max"), ("ft", "ft")]
)
def test_an_image_serves_its_own_system_unless_told_otherwise(image: str, system: str) -> None:
    text = (ROOT / f"Dockerfile.{image}").read_text(encoding="utf-8")
    variables = dict(re.findall(r"^ENV (BENCH_\w+)=(\S+)$", text, re.M))

    def served(*words: str) -> str:
        return str(json.loads(passed(*RUN, *words, env=variables).stdout)["system"])

    assert served() == system
    assert served("--system", "orca-pow2") == "orca-pow2"


def test_an_unknown_system_in_the_variable_is_one_line() -> None:
    told = refused(*RUN, env={"BENCH_SYSTEM": "orca"})
    assert told.startswith("Error: unknown system 'orca': did you mean")
