"""The guided tour leads where it says: its files exist and define the names that it gives."""

from __future__ import annotations

import ast
import re

import pytest
from places import ROOT

TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PLACES = sorted(set(re.findall(r"`((?:engines|bench|plot|tests)/[\w/]+\.py)(?::([\w.]+))?`", TEXT)))


def test_the_tour_names_places() -> None:
    assert len(PLACES) > 20


@pytest.mark.parametrize(("path", "name"), PLACES, ids=[":".join(place) for place in PLACES])
def test_a_place_is_there(path: str, name: str) -> None:
    body = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    for part in filter(None, name.split(".")):
        found = [node for node in body if getattr(node, "name", None) == part]
        assert found, f"{path} does not define {name}"
        assert isinstance(found[0], ast.ClassDef | ast.FunctionDef)
        body = found[0].body
