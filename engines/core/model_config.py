"""Checked values of a Hugging Face config.json."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.core.errors import UserError
from engines.core.text import shown

CONFIG_FILE = "config.json"
# Beyond every model, and within what can be laid out before it is held against the weights.
_MOST = 1 << 24
_MOST_BYTES = 1 << 24


@dataclass(frozen=True)
class ModelConfig:
    """The values of one config.json; null counts as absent. Errors name the source and the key.

    `sha256` is that of the bytes they were read from, empty where they come from no file.
    """

    name: str
    source: str
    values: Mapping[str, Any]
    sha256: str = ""

    def error(self, problem: str) -> UserError:
        """The error for a problem of this configuration."""
        return UserError(f"{self.source}: {problem}")

    def get(self, *keys: str, default: Any = None) -> Any:
        """The value of the first key that is there; raises UserError where there is no default."""
        found = (self.values[key] for key in keys if self.values.get(key) is not None)
        value = next(found, default)
        if value is None:
            raise self.error(
                f"{' or '.join(keys)} is missing: use the config.json that the model is published "
                "with, or add the key"
            )
        return value

    def size(self, *keys: str, default: int | None = None, most: int = _MOST) -> int:
        """A whole number from 1 to `most`."""
        value = self.get(*keys, default=default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.error(f"{keys[0]} must be a positive integer, got {shown(value)}")
        if value > most:
            raise self.error(f"{keys[0]} must be at most {most:,}, got {shown(value)}")
        return value

    def number(self, key: str, *, default: float | None = None) -> float:
        """A positive finite number."""
        value = self.get(key, default=default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise self.error(f"{key} must be a positive number, got {shown(value)}")
        if value > sys.float_info.max:
            raise self.error(f"{key} must be finite, got {shown(value)}")
        return float(value)

    def flag(self, key: str, *, default: bool) -> bool:
        """True or false."""
        value = self.get(key, default=default)
        if not isinstance(value, bool):
            raise self.error(f"{key} must be true or false, got {shown(value)}")
        return value

    def text(self, *keys: str, default: str | None = None) -> str:
        """A string."""
        value = self.get(*keys, default=default)
        if not isinstance(value, str):
            raise self.error(f"{keys[0]} must be a string, got {shown(value)}")
        return value

    def require(self, key: str, allowed: Any) -> None:
        """Raise UserError if the key is there with another value."""
        if (value := self.get(key, default=allowed)) != allowed:
            raise self.error(f"unsupported {key} {shown(value)}: supported: {allowed!r}")

    def part(self, key: str) -> ModelConfig:
        """The object under a key, empty where it is absent."""
        values = self.get(key, default={})
        if not isinstance(values, dict):
            raise self.error(f"{key} must be an object, got {shown(values)}")
        return ModelConfig(self.name, self.source, values)


def config_file(path: str | Path) -> Path:
    """The config.json of a checkpoint directory, or the file that a path names."""
    return Path(path, CONFIG_FILE) if os.path.isdir(path) else Path(path)


def read_config(path: str | Path) -> ModelConfig:
    """Read a checkpoint directory's config.json, or a file that holds one.

    Raises UserError. (transformers' AutoConfig fills in what is missing with a default and takes
    heads that do not divide, in six seconds and with torch.)
    """
    file = config_file(path)
    try:
        with file.open("rb") as opened:
            text = opened.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise UserError(f"{file} is larger than {_MOST_BYTES >> 20} MiB: it is no config.json")
        values = json.loads(text)
    except FileNotFoundError:
        raise UserError(
            f"{file} does not exist: give a Hugging Face checkpoint or its config.json"
        ) from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{file} must hold a JSON object, got {type(values).__name__}")
    name = file.resolve().parent.name if file.name == CONFIG_FILE else file.stem
    return ModelConfig(name, str(file), values, hashlib.sha256(text).hexdigest())
