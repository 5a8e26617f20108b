"""Text in and out, by the tokenizer that lies in a checkpoint's directory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

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
        directory = Path(self._model)
        if not is_path(self._model):
            raise UserError(
                f"{find_model(self._model).name} has random weights and no tokenizer: give "
                "prompt_token_ids"
            )
        unreadable = UserError(
            f"{directory} holds no tokenizer that transformers can read: give prompt_token_ids"
        )
        try:
            from transformers import AutoTokenizer

            found = AutoTokenizer.from_pretrained(
                str(directory), local_files_only=True, trust_remote_code=False
            )
        except ModuleNotFoundError as error:
            raise UserError(
                f"text prompts need {error.name}, which is not installed: install it, or give "
                "prompt_token_ids"
            ) from None
        except Exception:  # whatever is missing or damaged
            raise unreadable from None
        # Without its files, some classes make a tokenizer that knows no words.
        if not any((directory / name).is_file() for name in found.vocab_files_names.values()):
            raise unreadable
        return found
