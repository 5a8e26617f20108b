"""Reads a pickled list of pairs of whole numbers; whatever else a pickle holds is refused."""

from __future__ import annotations

import io
import pickle
from typing import Any, NoReturn

import numpy as np

from bench.workloads.lengths import Lengths
from bench.workloads.tables import LARGEST_INT
from engines.core.errors import UserError


class _PlainUnpickler(pickle.Unpickler):
    """Builds numbers, strings and containers only: no name is ever looked up or called."""

    def find_class(self, module_name: str, global_name: str, /) -> NoReturn:
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError(f"it refers to an object outside ({pid!r:.40})")


def read_pickled_pairs(data: bytes, *, origin: str) -> Lengths:
    """Return the pairs (input length, output length) of a pickle of any protocol.

    `origin` names the file in errors. Raises UserError for any pickle but a list of pairs of
    integers from 1 to 2^31 - 1, for a truncated one and for one with bytes behind its end.
    """
    try:
        return _pairs_of(_unpickle(data))
    except Exception as error:  # damaged bytes raise almost anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{origin} is not a pickled list of (input, output) lengths: {reason}; "
            "nothing in it was executed"
        ) from error


def _unpickle(data: bytes) -> Any:
    stream = io.BytesIO(data)
    value = _PlainUnpickler(stream).load()
    if stream.read(1):
        raise ValueError("it goes on behind its end")
    return value


def _pairs_of(value: Any) -> Lengths:
    if type(value) is not list or not value:
        raise ValueError("it holds no list of pairs")
    for index, pair in enumerate(value):
        if type(pair) not in (list, tuple) or len(pair) != 2:
            raise ValueError(f"entry {index} is not a pair")
        if not all(type(number) is int and 1 <= number <= LARGEST_INT for number in pair):
            raise ValueError(f"entry {index} is not a pair of integers from 1 to {LARGEST_INT}")
    return Lengths(*np.array(value, dtype=np.int32).T.copy())
