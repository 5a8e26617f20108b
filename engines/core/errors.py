"""Errors that a user can fix, as opposed to broken invariants."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input. The message is one line: the value, what is allowed, the remedy.

    The command line prints it without a traceback and exits with status 2.
    """


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Build the error for a misspelt name: nearest valid names first, then all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return UserError(f"unknown {kind} '{name}': {hint}known: {', '.join(names)}")


class LostWorkerError(Exception):
    """A process that the engine needs has died. The same work may succeed when retried."""
