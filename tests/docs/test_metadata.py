"""Files for those who cite or archive this: valid, and of one mind with the package."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PAPER = "10.1145/3600006.3613165"
# What the Citation File Format 1.2.0 asks for and admits, of what is used here.
REQUIRED = {"authors", "cff-version", "message", "title"}
ADMITTED = {
    *REQUIRED, "abstract", "commit", "date-released", "doi", "identifiers", "keywords", "license",
    "references", "repository-code", "type", "url", "version",
}  # fmt: skip
DERIVED = ("bench/workloads/data", "engines/sim/data")
PERSON = {"family-names", "given-names", "orcid", "affiliation", "name"}
REFERENCE = {
    "authors", "collection-title", "conference", "doi", "title", "type", "year",
}  # fmt: skip


@pytest.fixture(scope="module")
def cff() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    found: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    return found


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / name).read_text(encoding="utf-8"))
    return found


def test_citation_keeps_to_its_format(cff: dict[str, Any]) -> None:
    assert set(cff) >= REQUIRED
    assert set(cff) <= ADMITTED
    assert (cff["cff-version"], cff["type"]) == ("1.2.0", "software")
    assert all(isinstance(word, str) and word for word in cff["keywords"])
    (paper,) = cff["references"]
    assert set(paper) == REFERENCE
    assert paper["type"] == "conference-paper"
    assert (paper["year"], paper["doi"]) == (2023, PAPER)
    assert set(paper["conference"]) == {"name"}
    assert len(paper["authors"]) == 9
    for person in (*cff["authors"], *paper["authors"]):
        assert {"name"} <= set(person) <= PERSON or {"family-names"} <= set(person) <= PERSON


def test_all_files_say_the_same(cff: dict[str, Any]) -> None:
    zenodo, codemeta = read(".zenodo.json"), read("codemeta.json")
    for key, told in {
        "title": (cff["title"], zenodo["title"], codemeta["name"]),
        "abstract": (cff["abstract"], zenodo["description"], codemeta["description"]),
        "version": (cff["version"], zenodo["version"], codemeta["version"], PROJECT["version"]),
        "keywords": (*map(tuple, (cff["keywords"], zenodo["keywords"], codemeta["keywords"])),),
        "license": (
            *(cff["license"], zenodo["license"], PROJECT["license"]),
            codemeta["license"].removeprefix("https://spdx.org/licenses/"),
        ),
        "authors": (
            *(cff["authors"][0]["name"], zenodo["creators"][0]["name"]),
            codemeta["author"][0]["name"],
        ),
        "paper": (
            *(PAPER, zenodo["related_identifiers"][0]["identifier"]),
            codemeta["referencePublication"][0]["identifier"].removeprefix("https://doi.org/"),
        ),
    }.items():
        assert len(set(told)) == 1, f"{key}: {told}"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.startswith(f"# {cff['title']}\n")
    assert f"{{Version {cff['version']}, commit" in readme


def test_codemeta_has_its_context_and_zenodo_its_fields() -> None:
    codemeta, zenodo = read("codemeta.json"), read(".zenodo.json")
    assert codemeta["@context"] == "https://w3id.org/codemeta/3.0"
    assert codemeta["@type"] == "SoftwareSourceCode"
    assert (zenodo["upload_type"], zenodo["access_right"]) == ("software", "open")
    assert re.fullmatch(r"\d+\.\d+\.\d+", zenodo["version"])


def test_every_shipped_table_has_its_licence_told() -> None:
    text = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    folders = ("bench/experiments/data", "engines/sim/profiles")
    files = [path for place in DERIVED for path in (ROOT / place).iterdir()]
    files.append(ROOT / "engines" / "core" / "models.toml")
    told = [path.relative_to(ROOT).as_posix() for path in files] + list(folders)
    assert [name for name in told if f"../{name}" not in text] == []
