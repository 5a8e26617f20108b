"""A tokenizer of a few words, and conversations to count with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WORDS = ["<unk>", "<s>", *"abcdefghij"]


def write_tokenizer(folder: Path) -> Path:
    """Save a tokenizer for transformers that puts <s> before each text, a token a word."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()  # type: ignore[assignment]
    tokenizer.post_processor = TemplateProcessing(  # type: ignore[assignment]
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    return folder


def conversation(*messages: tuple[str, str], number: int = 0) -> dict[str, Any]:
    """An entry of ShareGPT's JSON."""
    said = [{"from": who, "value": text} for who, text in messages]
    return {"id": f"conversation-{number}", "conversations": said}


def write_sharegpt(path: Path) -> Path:
    """Two conversations, of two turns and of one, and others that have none."""
    entries = [
        conversation(("human", "a b c"), ("gpt", "d e"), ("human", "f"), ("gpt", "g h i j")),
        conversation(("gpt", "a"), ("human", "b b"), ("gpt", "c c c c c"), ("human", "d")),
        conversation(("human", "a")),
        conversation(),
        conversation(("system", "a"), ("gpt", "b")),
    ]
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path
