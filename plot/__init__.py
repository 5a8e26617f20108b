"""Figures as pure functions of result tables: registry and results in, PDF and PNG out."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path


def _give_matplotlib_a_home() -> None:
    """Without a folder to write to, Matplotlib makes one and says so on standard error."""
    settings = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if "MPLCONFIGDIR" not in os.environ and not all(map(_can_hold, (settings, cache))):
        os.environ["MPLCONFIGDIR"] = tempfile.mkdtemp(prefix="bench-matplotlib-")
        atexit.register(shutil.rmtree, os.environ["MPLCONFIGDIR"], ignore_errors=True)


def _can_hold(folder: str) -> bool:
    """Whether `folder`/matplotlib is writable, or can be made."""
    path = Path(folder, "matplotlib").absolute()
    while not os.path.lexists(path):
        path = path.parent
    return path.is_dir() and os.access(path, os.W_OK | os.X_OK)


_give_matplotlib_a_home()
