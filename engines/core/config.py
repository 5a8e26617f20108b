"""Settings of an engine, checked at construction, and the enums of its choices."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, fields
from enum import StrEnum

from engines.core.errors import UserError
from engines.core.text import parse_decimal, shown

GIB = 1 << 30
LARGEST_SIZE = 1 << 60  # bytes, beyond every machine's memory
MOST_KV_SLOTS = 100_000_000  # more than any machine has, and small enough for lists of them


def parse_size(text: str) -> int:
    """Read a memory size such as "40GiB" or "512MiB" in bytes; raises UserError."""
    units = {"MiB": 1 << 20, "GiB": GIB, "MB": 10**6, "GB": 10**9}
    for unit, factor in units.items():
        digits = text.removesuffix(unit)
        if digits == text:
            continue
        with suppress(ValueError):
            size = parse_decimal(digits) * factor
            if 1 <= size <= LARGEST_SIZE:
                return int(size)
    raise UserError(f"memory size {shown(text)} is not understood: write it as 40GiB or 512MiB")


class System(StrEnum):
    """The serving systems compared; the values are their names everywhere (paper, section 6.1)."""

    ASTRA = "astra"
    ORCA_ORACLE = "orca-oracle"
    ORCA_POW2 = "orca-pow2"
    ORCA_MAX = "orca-max"
    FT = "ft"

    @property
    def family(self) -> str:
        """Whose image, memory layout and kernels it has: "astra", "orca" or "ft"."""
        return self.value.partition("-")[0]


class Preemption(StrEnum):
    """How a preempted group's KV cache is kept (paper, section 4.5).

    AUTO and RECOMPUTE recompute a group of one sequence and swap a group of several.
    """

    AUTO = "auto"
    RECOMPUTE = "recompute"
    SWAP = "swap"


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Settings of one engine; defaults are the original artifact's.

    `num_slots` is the KV cache's size in tokens. `max_batch_size` limits requests in an FT batch.
    `swap_slots` is the size of the CPU pool in tokens. `watermark` is the share of blocks kept
    free when a prompt is admitted.
    """

    system: System
    num_slots: int
    swap_slots: int = 0
    block_size: int = 16
    max_batched_tokens: int = 2560
    max_num_seqs: int = 2048
    max_batch_size: int = 8
    max_model_len: int = 2048
    preemption: Preemption = Preemption.AUTO
    share_prefix: bool = False
    watermark: float = 0.01

    def __post_init__(self) -> None:
        for name in [spec.name for spec in fields(self) if spec.type == "int"]:
            value, least = getattr(self, name), 0 if name == "swap_slots" else 1
            if value < least:
                raise UserError(f"{name.replace('_', ' ')} must be at least {least}, got {value}")
        if self.block_size > 256:
            raise UserError(f"block size must be from 1 to 256, got {self.block_size}")
        if self.num_slots < self.block_size:
            raise UserError(
                f"{self.num_slots} KV slots do not hold one block of {self.block_size} tokens: "
                "raise --kv-slots or lower --block-size"
            )
        if not 0 <= self.watermark < 1:
            raise UserError(f"watermark must be in [0, 1), got {self.watermark}")

    @property
    def num_blocks(self) -> int:
        """Blocks in the device's pool."""
        return self.num_slots // self.block_size

    @property
    def num_swap_blocks(self) -> int:
        """Blocks in the CPU pool."""
        return self.swap_slots // self.block_size
