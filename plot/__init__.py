"""Figures as pure functions of result tables: registry and results in, PDF and PNG out."""

from __future__ import annotations

import logging

# Where it cannot write to its folder, Matplotlib makes a temporary one: nothing to warn about.
logging.getLogger("matplotlib").addFilter(lambda record: record.levelno >= logging.ERROR)
