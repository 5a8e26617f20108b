"""Measurements of kernels as files: written whole with their provenance, read back for figures."""

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

    Of the quickest samples, since whatever else runs on a machine can only slow one; beside it the
    least and the largest ratio of a round's medians, which tell how steady the machine was.
    """

    batch_size: int
    context_len: int
    paged_over_contiguous: float
    least: float
    largest: float


@dataclass(frozen=True)
class RecoveryRow:
    """Bringing back one preempted sequence (Figure 19a): medians over rounds, and the spread.

    `staged`: blocks are gathered into large transfers; otherwise each block of each layer's keys
    or values moves by itself, as in the original. `spread_s` is the range over rounds of swapping
    out and in together. `swapped_bytes` move one way, over the bus to the host.
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
    """Where a figure's microbenchmark ("attention" or "recovery") of a device lies."""
    return root / FOLDER / f"{part}-{device}"


def find_measurement(root: Path, part: str, *, backend: str) -> dict[str, Any] | None:
    """What was measured of a part; None if it was not. Raises UserError for a faulty file.

    The simulation measures nothing: beside its results stands the GPU's measurement, or the CPU's.
    """
    for device in ("cuda", "cpu") if backend == "sim" else (backend,):
        directory = measured_directory(root, part, device)
        if (directory / FILE).exists():
            return read_measurement(directory)
    return None


def write_measurement(directory: Path, found: dict[str, Any]) -> Path:
    """Write a measurement whole; returns its file. Raises UserError if that is refused."""
    path = directory / FILE
    write_file(path, json_bytes(found))
    return path


def read_measurement(directory: Path) -> dict[str, Any]:
    """Read a measurement; raises UserError if there is none or it is not one."""
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
    """One row per block size: the fields of `RecoveryRow` (Figure 19a; `staged` is ours)."""
    frame = _frame(found["recovery"], RecoveryRow)
    return frame[frame["staged"] == staged].reset_index(drop=True)


def _frame(rows: Sequence[Mapping[str, Any]], kind: type) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(rows, columns=[field.name for field in fields(kind)])
