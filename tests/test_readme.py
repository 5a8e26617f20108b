"""README and docs: generated parts are as generated, commands exist, links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest

from bench.cli import main
from bench.experiments import registry
from tools import appendix, readme

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "artifacts/README.md", *ROOT.glob("docs/*.md")])
LONGEST_README, LONGEST_START, WIDEST_TABLE = 190, 70, 100
SHELL = re.compile(r"^```sh\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"\]\(([^)#:]*)(#[^)]*)?\)")
# Files that a document's own example makes or that the reader is asked to have.
GIVEN = ("my-gpu.toml", "trace.csv", "burst.csv", "first.csv", "turns.csv")

BLOCKS = [
    *((readme.README, name) for name in ("claims", "quick", "evidence", "environment", "misses")),
    *((readme.RUNNING, name) for name in ("figures", "run")),
    (readme.SIMULATOR, "calibrations"),
]


def commands() -> list[tuple[str, str]]:
    """Every line of every shell block, with its document."""
    return [
        (document.name, line)
        for document in DOCUMENTS
        for block in SHELL.findall(document.read_text(encoding="utf-8"))
        for line in block.splitlines()
        if line.strip() and not line.startswith("#")
    ]


@pytest.fixture(scope="module")
def generated() -> dict[Path, dict[str, str]]:
    return readme.blocks()


@pytest.mark.parametrize(("document", "name"), BLOCKS)
def test_generated_part_is_as_generated(
    document: Path, name: str, generated: dict[Path, dict[str, str]]
) -> None:
    assert {(path, each) for path, parts in generated.items() for each in parts} == set(BLOCKS)
    text = document.read_text(encoding="utf-8")
    found = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- end of {name} -->", text, re.S)
    assert found is not None
    assert found[1] == generated[document][name], "'python -m tools.readme' writes it anew"


@pytest.mark.parametrize("document", readme.documents(), ids=lambda path: path.name)
def test_generated_document_is_as_generated(document: Path) -> None:
    told = document.read_text(encoding="utf-8")
    assert told == readme.documents()[document], "'python -m tools.readme' writes it anew"


def test_readme_stays_short_and_starts_with_commands() -> None:
    lines = README.splitlines()
    assert len(lines) <= LONGEST_README
    assert lines.index("## Claims") <= LONGEST_START, "two screens of commands, then the details"
    assert [line for line in lines if line.startswith("|") and len(line) > WIDEST_TABLE] == []


@pytest.mark.parametrize("headline", appendix.HEADLINES, ids=lambda headline: headline.words)
def test_every_headline_stands_for_claims(headline: appendix.Headline) -> None:
    figure = registry.FIGURES.get(headline.figure)
    claims = registry.TABLE1_CLAIMS if figure is None else figure.claims
    found = [claim for claim in claims if claim.text.startswith(headline.prefix)]
    assert found
    assert [claim for claim in found if claim.text.startswith(headline.shown)]


def test_every_claim_has_a_headline() -> None:
    for figure in registry.FIGURES.values():
        for claim in figure.claims:
            told = [
                headline
                for headline in appendix.HEADLINES
                if headline.figure == figure.name and claim.text.startswith(headline.prefix)
            ]
            assert len(told) == (0 if figure.only_measured else 1), claim.text


@pytest.mark.parametrize(
    ("texts", "joined"),
    [
        (["1.7 to 2.7x", "1.7 to 2.7x"], "1.7 to 2.7x"),
        (["1 %", "2 %"], "1, 2 %"),
        (["1.5x", "2x"], "1.5x, 2x"),
        (["7", "9.8"], "7, 9.8"),
        (["16 to 128 tokens", "16 to 32 tokens"], "16 to 128, 16 to 32 tokens"),
        (["as printed", "±15.0 %"], "as printed, ±15.0 %"),
        (["at most 1.2x", "2x"], "at most 1.2x, 2x"),
    ],
)
def test_numbers_in_a_row(texts: list[str], joined: str) -> None:
    assert appendix.joined(texts) == joined


def test_an_empty_part_is_filled_and_the_rest_stays() -> None:
    text = "above\n<!-- claims -->\n<!-- end of claims -->\nbelow\n"
    filled = readme.replace_blocks(text, {"claims": "text"})
    assert filled == "above\n<!-- claims -->\ntext\n<!-- end of claims -->\nbelow\n"
    assert readme.replace_blocks(filled, {"claims": "text"}) == filled


def test_missing_marks_are_noticed() -> None:
    with pytest.raises(AssertionError, match="not one 'claims'"):
        readme.replace_blocks("nothing", {"claims": "text"})


@pytest.mark.parametrize(("document", "line"), commands())
def test_commands_exist_and_take_these_options(
    document: str, line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = shlex.split(line, comments=True)
    while words and "=" in words[0]:
        words = words[1:]  # settings of the environment
    if words[0] == "make":
        done = subprocess.run(
            ["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        names = [word for word in words[1:] if word.startswith("fig")]
        assert set(names) <= set(registry.names()), document
    elif words[0] == "bench":
        monkeypatch.chdir(ROOT)
        for name in GIVEN:
            (tmp_path / name).touch()
        words = [str(tmp_path / word) if word in GIVEN else word for word in words]
        command = main.get_command(click.Context(main), words[1])
        assert command is not None, f"{document}: no command {words[1]}"
        command.make_context(words[1], words[2:])


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`make ([a-z0-9-]+)", README))))
def test_make_knows_every_target_of_the_text(target: str) -> None:
    done = subprocess.run(
        ["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not target.startswith("fig") or target in registry.names()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_linked_file_exists(document: Path) -> None:
    for path, anchor in LINK.findall(document.read_text(encoding="utf-8")):
        target = document.parent / path if path else document
        assert target.exists(), f"{document.name} links {path}"
        if anchor and target.suffix == ".md":
            heads = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.M)
            slugs = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor[1:] in slugs, f"{document.name} links {path}{anchor}"
