"""Stored JSON: sealed with a checksum of all of it, and held against a schema when it is read.

A schema is a type: a TypedDict or dataclass for an object, whose fields with a default may be
absent, and below it `dict[str, X]`, `list[X]`, `tuple[X, Y]` and `tuple[X, ...]` (lists in JSON),
unions, `Literal`, `str`, `bool`, `int`, `float`.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from bench.files import json_bytes
from engines.core.text import shown

SEAL = "sha256"
_NAMES = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    NoneType: "null",
}
_LARGEST: Mapping[type, float] = {int: (1 << 63) - 1, float: sys.float_info.max}


class RecordError(ValueError):
    """JSON that is not what it should be; the message says why."""


def seal(record: Mapping[str, Any]) -> bytes:
    """Encode an object with the SHA-256 of everything else in it as its last word."""
    digest = hashlib.sha256(json_bytes(record)).hexdigest()
    return json_bytes({**record, SEAL: digest})


def read_record(path: Path, schema: Any, *, expected_format: int) -> dict[str, Any]:
    """Read a sealed object of a format, without its seal; raises RecordError, naming the file."""
    try:
        return unseal(path.read_bytes(), schema, expected_format=expected_format)
    except OSError as error:
        raise RecordError(f"{path.name} cannot be read ({error.strerror})") from error
    except RecordError as error:
        raise RecordError(f"{path.name} {error}") from error


def unseal(content: bytes, schema: Any, *, expected_format: int) -> dict[str, Any]:
    """The object that `seal` encoded, without its seal, checked; raises RecordError."""
    try:
        record = json.loads(content)
        if not isinstance(record, dict):
            raise RecordError("is not an object")
        found = record.get("format")
        if found != expected_format:
            raise RecordError(f"has format {shown(found)}, this version has {expected_format}")
        record.pop(SEAL, None)
        if seal(record) != content:
            raise RecordError("does not match its checksum")
    except RecordError:
        raise
    except (ValueError, RecursionError) as error:
        raise RecordError("is not valid JSON") from error
    check(record, schema)
    return record


def parse_object(text: str) -> dict[str, Any]:
    """Parse JSON from outside that holds one object; raises RecordError."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise RecordError(f"not valid JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError):
        raise RecordError("not valid JSON: a number too long or lists too deep") from None
    if not isinstance(found, dict):
        raise RecordError(f"expected a JSON object, got {shown(found)}")
    return found


def check(value: Any, schema: Any, where: str = "") -> None:
    """Raise RecordError unless plain `value` is as the type says; `where` names its place."""
    kind, arguments = get_origin(schema) or schema, get_args(schema)
    if isinstance(kind, type) and issubclass(kind, str):
        kind = schema = str  # names that a type checks are text in JSON
    if is_typeddict(kind) or is_dataclass(kind):
        _check_object(value, kind, where)
    elif kind is dict and type(value) is dict:
        for key, item in value.items():
            check(item, arguments[1], f"{where}[{shown(key)}]")
    elif kind in (list, tuple) and type(value) is list:
        any_length = kind is list or arguments[-1] is ...
        types = arguments[:1] * len(value) if any_length else arguments
        if len(types) != len(value):
            raise _unlike(value, schema, where)
        for index, item in enumerate(value):
            check(item, types[index], f"{where}[{index}]")
    elif not _is_plain(value, kind, arguments):
        raise _unlike(value, schema, where)


def _check_object(value: Any, kind: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise _unlike(value, kind, where)
    types, required = _fields(kind)
    place = f"{where}: " if where else ""
    if missing := sorted(required - value.keys()):
        raise RecordError(f"{place}lacks {', '.join(missing)}")
    if unknown := sorted(value.keys() - types.keys()):
        raise RecordError(f"{place}has unknown {', '.join(map(shown, unknown[:3]))}")
    for name, item in value.items():
        check(item, types[name], f"{where}.{name}" if where else name)


@cache
def _fields(kind: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """The types of an object's fields, and the names of those that it must have."""
    types = get_type_hints(kind)
    if is_typeddict(kind):
        return types, frozenset(kind.__required_keys__)
    required = (f.name for f in fields(kind) if f.default is f.default_factory is MISSING)
    return types, frozenset(required)


def _fits(value: Any, schema: Any) -> bool:
    try:
        check(value, schema)
    except RecordError:
        return False
    return True


def _is_plain(value: Any, kind: Any, arguments: tuple[Any, ...]) -> bool:
    """Whether a value is of a plain type or of one in a union; a whole number is a float too."""
    if kind in (Union, UnionType):
        return any(_fits(value, each) for each in arguments)
    if kind is Literal:
        return value in arguments
    if kind is Any or (type(value), kind) == (int, float) or type(value) is kind:
        return kind not in _LARGEST or -_LARGEST[kind] <= value <= _LARGEST[kind]
    return False


def _unlike(value: Any, schema: Any, where: str) -> RecordError:
    expected = _NAMES.get(schema) or str(schema).replace("typing.", "")
    if is_typeddict(schema) or is_dataclass(schema):
        expected = "an object"
    return RecordError(f"{where}: expected {expected}, got {shown(value)}".lstrip(": "))
