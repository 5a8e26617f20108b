"""Reads a pickled list of pairs of whole numbers without unpickling objects.

A pickle is a program for a stack machine. This interpreter knows only the instructions that build
integers, tuples and lists; it imports nothing and calls nothing, and refuses any other program.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from bench.workloads.lengths import Lengths
from bench.workloads.tables import LARGEST_INT
from engines.core.errors import UserError

MAX_BYTES = 16 << 20  # the original file has about 84,000 pairs in about 1 MB
MAX_INSTRUCTIONS = 4_000_000

_INTEGERS = frozenset({"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"})
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_STORES = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"})
_LOADS = frozenset({"GET", "BINGET", "LONG_BINGET"})
_IGNORED = frozenset({"PROTO", "FRAME"})


class _RefusedError(Exception):
    """The program is not one that builds a list of pairs."""


class _Mark:
    """What MARK puts on the stack."""


class _Machine:
    """The stack and the memo; one method for each kind of instruction."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.marks = {
            "MARK": self.mark,
            "TUPLE": self.build_tuple,
            "LIST": self.build_list,
            "EMPTY_LIST": self.empty_list,
            "APPEND": self.append,
            "APPENDS": self.appends,
        }

    def run(self, name: str, argument: Any) -> None:
        """Carry out one instruction; raises _RefusedError."""
        if name in _INTEGERS and type(argument) is int:
            self.stack.append(argument)
        elif name in _TUPLES:
            self.stack.append(tuple(self.pop_many(_TUPLES[name])))
        elif name in _STORES:
            key = len(self.memo) if argument is None else argument
            self.memo[key] = self.top()
        elif name in _LOADS:
            if argument not in self.memo:
                raise _RefusedError(f"reads memo {argument} before writing it")
            self.stack.append(self.memo[argument])
        elif name in self.marks:
            self.marks[name]()
        elif name not in _IGNORED:
            raise _RefusedError(f"instruction {name} is not needed for a list of pairs of integers")

    def top(self) -> Any:
        if not self.stack or self.stack[-1] is _Mark:
            raise _RefusedError("uses a value that is not there")
        return self.stack[-1]

    def pop_many(self, count: int) -> list[Any]:
        values = self.stack[len(self.stack) - count :] if count else []
        if len(values) != count or _Mark in values:
            raise _RefusedError("uses a value that is not there")
        del self.stack[len(self.stack) - count :]
        return values

    def pop_to_mark(self) -> list[Any]:
        values = []
        while self.stack and self.stack[-1] is not _Mark:
            values.append(self.stack.pop())
        if not self.stack:
            raise _RefusedError("uses a mark that is not there")
        self.stack.pop()
        return values[::-1]

    def mark(self) -> None:
        self.stack.append(_Mark)

    def build_tuple(self) -> None:
        self.stack.append(tuple(self.pop_to_mark()))

    def build_list(self) -> None:
        self.stack.append(self.pop_to_mark())

    def empty_list(self) -> None:
        self.stack.append([])

    def append(self) -> None:
        self.extend(self.pop_many(1))

    def appends(self) -> None:
        self.extend(self.pop_to_mark())

    def extend(self, values: Any) -> None:
        target = self.top()
        if type(target) is not list:
            raise _RefusedError("appends to what is not a list")
        target.extend(values)


def read_pickled_pairs(data: bytes, *, origin: str) -> Lengths:
    """Return the pairs (input length, output length) of a pickle of any protocol.

    `origin` names the file in errors. Raises UserError for any pickle but a list of pairs of
    integers from 1 to 2^31 - 1, for a truncated one and for one with bytes behind its end.
    """

    def refuse(reason: str) -> NoReturn:
        raise UserError(
            f"{origin} is not a pickled list of (input, output) lengths: {reason}; "
            "nothing in it was executed"
        )

    if len(data) > MAX_BYTES:
        refuse(f"{len(data)} bytes are more than {MAX_BYTES}")
    try:
        result = _interpret(data)
        return Lengths(*_columns(result, refuse))
    except _RefusedError as refusal:
        refuse(str(refusal))


def _interpret(data: bytes) -> Any:
    machine = _Machine()
    instructions = pickletools.genops(data)
    for count in range(MAX_INSTRUCTIONS):
        try:
            opcode, argument, position = next(instructions)
        except (ValueError, StopIteration) as error:  # pickletools' word for any malformed byte
            raise _RefusedError(f"it is damaged or truncated after {count} instructions") from error
        if opcode.name == "STOP":
            assert position is not None, "genops tells positions in bytes"
            if position + 1 != len(data) or len(machine.stack) != 1:
                raise _RefusedError("it goes on behind its end")
            return machine.stack[0]
        machine.run(opcode.name, argument)
    raise _RefusedError(f"it has more than {MAX_INSTRUCTIONS} instructions")


def _columns(
    result: Any, refuse: Callable[[str], NoReturn]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    if type(result) is not list or not result:
        refuse("it holds no list of pairs")
    for index, pair in enumerate(result):
        if type(pair) not in (list, tuple) or len(pair) != 2:
            refuse(f"entry {index} is not a pair")
        if not all(type(value) is int and 1 <= value <= LARGEST_INT for value in pair):
            refuse(f"entry {index} is not a pair of integers from 1 to {LARGEST_INT}")
    columns = np.array(result, dtype=np.int32)
    return columns[:, 0].copy(), columns[:, 1].copy()
