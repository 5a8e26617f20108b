"""Text prompts by a checkpoint's own tokenizer, and one line where there is none."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.cli import main
from bench.point.generate import read_prompts
from bench.point.text import Tokenizer
from engines.core.errors import UserError

pytest.importorskip("transformers")
WORDS = ("<s>", "</s>", "<unk>", "\u2581the", "\u2581a", "\u2581cat", "\u2581sat", "s", ".")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A tokenizer like LLaMA's: it begins with <s>, and a text's first space is not decoded."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, processors

    vocabulary = {word: i for i, word in enumerate(WORDS)}
    backend = Backend(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    backend.add_special_tokens(["<s>", "</s>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return tmp_path


def test_a_text_and_its_continuation(directory: Path) -> None:
    tokenizer = Tokenizer(str(directory))
    prompt = tokenizer.encode("the cat")
    assert prompt == [0, 3, 5]
    assert tokenizer.continuation(prompt, [6, 8, 1]) == " sat."  # without the end's own token
    assert tokenizer.continuation([0], [4, 5, 7]) == "a cats"
    assert tokenizer.continuation(prompt, []) == ""


def test_texts_end_where_the_model_ends_them_and_ids_do_not(directory: Path) -> None:
    lines = [
        {"prompt": "a cat", "max_tokens": 2},
        {"prompt_token_ids": [0, 4, 5], "max_tokens": 2},
        {"prompt": "a", "max_tokens": 2, "ignore_eos": True},
    ]
    tokenizer = Tokenizer(str(directory))
    prompts = read_prompts([("here", json.dumps(line)) for line in lines], tokenizer)
    requests = [prompt.request for prompt in prompts]
    assert requests[0].prompt_token_ids == requests[1].prompt_token_ids
    assert [r.sampling.ignore_eos for r in requests] == [False, True, True]
    assert [prompt.is_text for prompt in prompts] == [True, False, True]


def test_no_tokenizer_is_one_line_that_names_the_way_out(tmp_path: Path) -> None:
    for model, problem in (("opt-125m", "opt-125m has no tokenizer"), (f"{tmp_path}", "no folder")):
        with pytest.raises(UserError, match=rf"{problem}.*; without .*, give prompt_token_ids$"):
            Tokenizer(model).encode("a")


def test_without_transformers_the_remedy_is_named(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match="needs transformers, which is not installed: pip install"):
        Tokenizer(str(directory)).encode("a")


@pytest.mark.parametrize("given", [(), ("--prompt", "a", "--input", __file__)])
def test_either_a_file_or_prompts(given: tuple[str, ...]) -> None:
    words = ["generate", "--system", "astra", "--model", "opt-125m"]
    done = CliRunner().invoke(main, [*words, *given])
    assert done.exit_code == 2
    assert done.stderr == "Error: give either --input FILE.jsonl or --prompt TEXT\n"


def test_a_prompt_that_is_no_unicode(directory: Path) -> None:
    words = ["generate", "--system", "astra", "--model", str(directory), "--prompt", "a\udcff"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2
    assert "--prompt 1: prompt must be a text" in done.stderr
