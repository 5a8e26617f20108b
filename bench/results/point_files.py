"""The files of a point: written whole, and read so that all are of one run and can be trusted.

`requests.parquet` has one row per request, `metrics.json` the metrics that are equal on every run,
and `point.json`, written last, the spec, the checksums of the other two, all metrics with times,
the inputs and the provenance, sealed with a checksum of all that.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from bench.files import PARTIAL, json_bytes, plain, write_together
from bench.point.metrics import Metrics
from bench.point.spec import PointSpec
from bench.records import RecordError, seal, unseal
from bench.results.provenance import Provenance
from engines.core.text import shown

if TYPE_CHECKING:
    from bench.point.serve import Outcome

FORMAT = 2
METRICS = "metrics.json"
POINT = "point.json"
REQUESTS = "requests.parquet"
TIMES = ("wall_s", "host_us_per_step")  # metrics that differ between two runs of one point
# How often a reader looks again while a writer replaces a point's files, which takes it moments.
_READS, _PAUSE_S = 20, 0.005


class Fingerprint(TypedDict):
    """What a file beside `point.json` must be."""

    bytes: int
    sha256: str


class PointRecord(TypedDict):
    """The content of `point.json`; `inputs` names what the result depends on besides the spec."""

    format: int
    spec: dict[str, Any]
    files: dict[str, Fingerprint]
    metrics: Metrics
    inputs: dict[str, Any]
    provenance: Provenance


class Failure(TypedDict):
    """The content of a failed point's record."""

    format: int
    spec: dict[str, Any]
    error: str
    traceback: list[str]


def write_point(
    directory: Path, spec: PointSpec, outcome: Outcome, *, provenance: Mapping[str, Any]
) -> None:
    """Write a point's three files into `directory`, `point.json` last.

    Raises UserError if the disk is full or not writable; older results are then untouched.
    """
    contents = {
        REQUESTS: _parquet_bytes(outcome.requests),
        METRICS: json_bytes(_stable(outcome.metrics)),
    }
    contents[POINT] = seal(
        {
            "format": FORMAT,
            "spec": spec.to_dict(),
            "files": {name: _fingerprint(content) for name, content in contents.items()},
            "metrics": outcome.metrics,
            "inputs": outcome.inputs,
            "provenance": provenance,
        }
    )
    write_together(directory, contents)


def _fingerprint(content: bytes) -> Fingerprint:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _parquet_bytes(requests: Mapping[str, NDArray[Any]]) -> bytes:
    """Encode the requests with fixed options, so that equal columns give equal bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def arrow(column: NDArray[Any]) -> Any:  # Arrow's own conversion would import pandas
        buffer = pa.py_buffer(np.ascontiguousarray(column))
        kind = pa.from_numpy_dtype(column.dtype)
        return pa.Array.from_buffers(kind, len(column), [None, buffer])

    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.table({name: arrow(column) for name, column in requests.items()}),
        sink,
        version="2.6",
        data_page_version="1.0",
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
        store_schema=False,
    )
    return bytes(sink.getvalue())


def read_point(directory: Path, spec: PointSpec) -> tuple[PointRecord, bytes] | None:
    """The content of `point.json`, checked against the spec, and of the requests beside it.

    None if there is none. Raises RecordError for anything that cannot be trusted.
    """
    files = _read_run(directory)
    content = files[POINT]
    if content is None:
        return None
    try:
        record: Any = unseal(content, PointRecord, expected_format=FORMAT)
        _check_times(record["provenance"])
    except RecordError as error:
        raise RecordError(f"{POINT} {error}") from error
    if record["spec"] != plain(spec.to_dict()):
        raise RecordError(f"{POINT} describes another point")
    for name in (REQUESTS, METRICS):
        content = files[name]
        if content is None:
            raise RecordError(f"{name} is missing")
        if _fingerprint(content) != record["files"].get(name):
            raise RecordError(f"{name} does not match its checksum")
    if files[METRICS] != json_bytes(_stable(record["metrics"])):
        raise RecordError(f"{METRICS} and {POINT} disagree")
    return record, files[REQUESTS] or b""


def _read_run(directory: Path) -> dict[str, bytes | None]:
    """A point's files by name, all of the same run; None for those that are not there.

    A run withdraws `point.json` before it replaces the others and writes it last. So they are of
    one run if it is the same before and after they were read.
    """
    for _ in range(_READS):
        files = {name: _read(directory / name) for name in (POINT, REQUESTS, METRICS)}
        replaced = (directory / PARTIAL).exists()
        if files[POINT] == _read(directory / POINT) and (files[POINT] or not replaced):
            break
        time.sleep(_PAUSE_S)
    return files


def _read(path: Path) -> bytes | None:
    """A file's content, None if it is not there; raises RecordError if it cannot be read."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RecordError(f"{path.name} cannot be read ({error.strerror})") from error


def _check_times(provenance: Provenance) -> None:
    for text in (provenance["started"], provenance["ended"]):
        try:
            has_zone = datetime.fromisoformat(text).tzinfo is not None
        except ValueError:
            has_zone = False
        if not has_zone:
            raise RecordError(f"has no time in {shown(text)}")


def _stable(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics that are equal on every run of a point."""
    return {key: value for key, value in metrics.items() if key not in TIMES}
