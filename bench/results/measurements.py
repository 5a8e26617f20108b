"""Files of kernel measurements: written atomically with provenance, read back for figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict, cast

from bench.files import write_file
from bench.records import RecordError, check, read_record, seal, unseal
from bench.results.provenance import Origin
from engines.core.errors import UserError
from engines.core.models import ModelSpec

FORMAT = 2
FILE = "kernels.json"
FOLDER = "kernels"  # below the artifacts
_LARGEST = 1e9  # of a time in seconds, or of a ratio


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


class Setup(TypedDict):
    """What was measured and how often; see `bench.devices.kernels.Setup`."""

    spec: dict[str, Any]  # the fields of a ModelSpec
    device: str
    dtype: str
    block_size: int
    samples: int
    rounds: int


class Measurement(TypedDict):
    """The content of `kernels.json`: rows of attention, of recovery, or both.

    `copy_bandwidth` is in B/s; the recovered sequence has `num_tokens`.
    """

    format: int
    backend: Literal["cpu", "cuda"]
    device: str
    setup: Setup
    num_tokens: int
    copy_bandwidth: float
    attention: list[AttentionRow]
    ratios: list[RatioRow]
    recovery: list[RecoveryRow]
    provenance: Origin


def measured_directory(root: Path, part: str, device: str) -> Path:
    """Directory of a figure's microbenchmark ("attention" or "recovery") on a device."""
    return root / FOLDER / f"{part}-{device}"


def find_measurement(root: Path, part: str, *, backend: str) -> Measurement | None:
    """The measurement of a part, or None. Raises UserError for an invalid file.

    Simulated results are shown beside the GPU's measurement or, without one, the CPU's.
    """
    for device in ("cuda", "cpu") if backend == "sim" else (backend,):
        directory = measured_directory(root, part, device)
        if (directory / FILE).exists():
            found = read_measurement(directory)
            if found["backend"] != device or not found[part]:  # type: ignore[literal-required]
                raise _unusable(directory, f"{FILE} holds no {part} measured on {device}")
            return found
    return None


def write_measurement(directory: Path, found: dict[str, Any]) -> Path:
    """Write a measurement atomically; returns its file. Raises UserError if that fails."""
    path, content = directory / FILE, seal(found)
    try:
        _check_rows(unseal(content, Measurement, expected_format=FORMAT))
    except RecordError as error:  # a container of another version made it
        raise UserError(f"no measurement of this version was made: it {error}") from None
    write_file(path, content)
    return path


def read_measurement(directory: Path) -> Measurement:
    """Read a measurement; raises UserError if the file is missing or invalid."""
    try:
        found = read_record(directory / FILE, Measurement, expected_format=FORMAT)
        _check_rows(found)
    except RecordError as error:
        raise _unusable(directory, str(error)) from None
    return cast(Measurement, found)


def _unusable(directory: Path, reason: str) -> UserError:
    return UserError(
        f"{directory} holds no measurement of this version ({reason}): measure again with "
        f"bench kernels --out {directory}"
    )


def _check_rows(found: Any) -> None:
    """Raise RecordError unless each shape of attention has both kinds and a ratio, once."""
    check(found["setup"]["spec"], ModelSpec, "setup.spec")
    for row in (*found["attention"], *found["ratios"], *found["recovery"]):
        for name, value in row.items():
            if isinstance(value, float) and not 0 <= value <= _LARGEST:
                raise RecordError(f"has {name} {value:g}, which nothing measures")
    shapes = sorted({(row["batch_size"], row["context_len"]) for row in found["ratios"]})
    of_each = [(kind, *shape) for kind in ("contiguous", "paged") for shape in shapes]
    rows = [(row["kind"], row["batch_size"], row["context_len"]) for row in found["attention"]]
    if sorted(rows) != of_each or len(shapes) != len(found["ratios"]):
        raise RecordError("has rows of attention that do not go with its ratios")
