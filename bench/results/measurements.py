"""Files of kernel measurements: written atomically with provenance, read back for figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.files import RecordError, json_bytes, read_record, write_file
from engines.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
FILE = "kernels.json"
FOLDER = "kernels"  # below the artifacts


@dataclass(frozen=True)
class AttentionRow:
    """Decode attention of one kind and shape (Figure 18a): quartiles of all samples in seconds."""

    kind: str
    batch_size: int
    context_len: int
    block_size: int
    latency_s: float
    p25_s: float
    p75_s: float
    bytes_moved: int
    share_of_copy: float


@dataclass(frozen=True)
class RatioRow:
    """Latency of the paged over the contiguous kernel.

    It is the ratio of the fastest samples, since other work on a machine can only slow a sample
    down. `least` and `largest` are the extreme ratios of a round's medians, which show how steady
    the machine was.
    """

    batch_size: int
    context_len: int
    paged_over_contiguous: float
    least: float
    largest: float


@dataclass(frozen=True)
class RecoveryRow:
    """Recovery of one preempted sequence (Figure 19a): medians over rounds, and the spread.

    `staged`: blocks are gathered into large transfers; otherwise each block of each layer's keys
    or values is moved separately, as in the original. `spread_s` is the range over rounds of the
    time to swap out and in. `swapped_bytes` is for one direction, over the bus to the host.
    """

    block_size: int
    staged: bool
    swap_out_s: float
    swap_in_s: float
    recompute_s: float
    spread_s: float
    swapped_bytes: int
    share_of_copy: float


def measured_directory(root: Path, part: str, device: str) -> Path:
    """Directory of a figure's microbenchmark ("attention" or "recovery") on a device."""
    return root / FOLDER / f"{part}-{device}"


def find_measurement(root: Path, part: str, *, backend: str) -> dict[str, Any] | None:
    """The measurement of a part, or None. Raises UserError for an invalid file.

    Simulated results are shown beside the GPU's measurement or, without one, the CPU's.
    """
    for device in ("cuda", "cpu") if backend == "sim" else (backend,):
        directory = measured_directory(root, part, device)
        if (directory / FILE).exists():
            return read_measurement(directory)
    return None


def write_measurement(directory: Path, found: dict[str, Any]) -> Path:
    """Write a measurement atomically; returns its file. Raises UserError if that fails."""
    path = directory / FILE
    write_file(path, json_bytes(found))
    return path


def read_measurement(directory: Path) -> dict[str, Any]:
    """Read a measurement; raises UserError if the file is missing or invalid."""
    try:
        return read_record(directory / FILE, expected_format=FORMAT)
    except RecordError as error:
        raise UserError(
            f"{directory} holds no measurement of this version ({error}): measure again with "
            f"bench kernels --out {directory}"
        ) from None


def attention_frame(found: Mapping[str, Any]) -> pd.DataFrame:
    """One row per kind and shape: the fields of `AttentionRow` (Figure 18a)."""
    return _frame(found["attention"], AttentionRow)


def ratio_frame(found: Mapping[str, Any]) -> pd.DataFrame:
    """One row per shape: the fields of `RatioRow` (Figure 18a)."""
    return _frame(found["ratios"], RatioRow)


def recovery_frame(found: Mapping[str, Any], *, staged: bool = False) -> pd.DataFrame:
    """One row per block size: the fields of `RecoveryRow` (Figure 19a is not `staged`)."""
    frame = _frame(found["recovery"], RecoveryRow)
    return frame[frame["staged"] == staged].reset_index(drop=True)


def _frame(rows: Sequence[Mapping[str, Any]], kind: type) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(rows, columns=[field.name for field in fields(kind)])
