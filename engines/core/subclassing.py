"""`mypyc_attr`, where mypy's extensions are installed and where they are not.

mypyc reads from it that Python code may subclass a compiled class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["mypyc_attr"]
Class = TypeVar("Class")

try:
    from mypy_extensions import mypyc_attr
except ImportError:

    def mypyc_attr(**_attributes: Any) -> Callable[[Class], Class]:  # type: ignore[misc]
        """Change nothing."""
        return lambda decorated: decorated
