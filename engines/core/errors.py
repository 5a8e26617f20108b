"""Errors that a user can fix, as opposed to broken invariants."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from engines.core.text import shown


class UserError(Exception):
    """Bad input. The message is one line: the value, what is allowed, the remedy.

    The command line prints it without a traceback and exits with status 2.
    """


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Build the error for a misspelt name: the nearest valid names, or those that there are."""
    names = sorted(known)
    near = difflib.get_close_matches(name[:_LONGEST_NAME], names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return UserError(f"unknown {kind} {shown(name)}: {hint}known: {', '.join(names)}")


_LONGEST_NAME = 100  # characters; what is longer is like no name


class LostWorkerError(Exception):
    """A process that the engine needs has died. The same work may succeed when retried."""
