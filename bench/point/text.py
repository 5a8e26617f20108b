"""Text in and out, by the tokenizer that lies in a checkpoint's directory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.workloads.sharegpt import load_tokenizer
from engines.core.errors import UserError
from engines.core.models import find_model, is_path


class Tokenizer:
    """A model's tokenizer, loaded when it is first used, without a network.

    Methods raise UserError where the model has none, or transformers is not installed.
    """

    def __init__(self, model: str) -> None:
        self._model = model

    def encode(self, text: str) -> list[int]:
        """Return the text's token ids, with the special tokens that the tokenizer adds."""
        token_ids: list[int] = self._loaded(text)["input_ids"]
        return token_ids

    def continuation(self, prompt: Sequence[int], output: Sequence[int]) -> str:
        """Return the text that `output` adds to the text of `prompt`.

        An output decoded by itself would lose its first space with some tokenizers.
        """
        whole, start = self._decode([*prompt, *output]), self._decode(prompt)
        return whole[len(start) :]

    def _decode(self, token_ids: Sequence[int]) -> str:
        text: str = self._loaded.decode(
            list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    @cached_property
    def _loaded(self) -> Any:
        try:
            if not is_path(self._model):
                raise UserError(f"{find_model(self._model).name} has no tokenizer and no weights")
            return load_tokenizer(Path(self._model))
        except UserError as error:
            raise UserError(f"{error}; without a tokenizer, give prompt_token_ids") from None
