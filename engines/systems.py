"""Put a system together: its KV manager and its policy for a configuration."""

from __future__ import annotations

from engines.astra.block_manager import BlockManager
from engines.astra.scheduler import AstraScheduler
from engines.core.config import EngineConfig, System
from engines.core.scheduler import Scheduler
from engines.ft.manager import PaddedManager
from engines.ft.scheduler import FTScheduler
from engines.orca.manager import BuddyManager
from engines.orca.scheduler import OrcaScheduler


def create_scheduler(config: EngineConfig) -> Scheduler:
    """Return the configured system's scheduler, with its KV manager inside."""
    match config.system:
        case System.ASTRA:
            return AstraScheduler(config, BlockManager(config))
        case System.FT:
            return FTScheduler(config, PaddedManager(config))
        case _:
            return OrcaScheduler(config, BuddyManager(config))
