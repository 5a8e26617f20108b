"""Errors that a user can fix, as opposed to broken invariants."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from engines.core.text import shown


class UserError(Exception):
    """Bad input. The message is one line: the value, what is allowed, the remedy.

    The command line prints it without a traceback and exits with status 2.
    """


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Build the error for a misspelt name: the nearest valid names, and those that there are.

    Of a long list one name of each beginning is told: `opt-125m, ...` stands for all of OPT.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name[:_LONGEST_NAME], names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    listed = ", ".join(names)
    if len(listed) > _LONGEST_LIST:
        kinds = {re.split("[-0-9]", each)[0]: each for each in reversed(names)}
        listed = f"{', '.join(sorted(kinds.values()))}, ... ({len(names)} in all)"
    return UserError(f"unknown {kind} {shown(name)}: {hint}known: {listed}")


_LONGEST_NAME = 100  # characters; what is longer is like no name
_LONGEST_LIST = 160


class LostWorkerError(Exception):
    """A process that the engine needs has died. The same work may succeed when retried."""
