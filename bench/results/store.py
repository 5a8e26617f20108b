"""The store of results: one directory per point, written atomically, verified on every read.

`<root>/results/<backend>/<slug>-<digest>/` holds `requests.parquet` (one row per request),
`metrics.json` (the metrics that are equal on every run) and `point.json`, written last: the spec,
the checksums of the other two, all metrics with times, the inputs and the provenance. A failed
point leaves `<slug>-<digest>.failure.json` beside them until it succeeds.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.files import (
    PARTIAL,
    RecordError,
    check_writable,
    json_bytes,
    lock,
    plain,
    read_record,
    write_file,
    write_together,
)
from bench.point.spec import PointSpec
from bench.results.measurements import find_measurement
from bench.results.provenance import hash_inputs, source_hash
from engines.core.config import System
from engines.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from bench.point.serve import Outcome

FORMAT = 1
METRICS = "metrics.json"
POINT = "point.json"
REQUESTS = "requests.parquet"
TIMES = ("wall_s", "host_us_per_step")  # metrics that differ between two runs of one point


class State(Enum):
    """State of a point in the store."""

    COMPLETE = "complete"
    STALE = "stale"  # valid, but made by other sources or from other input files
    CORRUPT = "corrupt"
    MISSING = "missing"


@dataclass(frozen=True)
class Check:
    """A point's state and, unless complete or missing, the reason in a few words.

    `record` is the content of `point.json` if the point is complete or stale.
    """

    state: State
    reason: str = ""
    record: dict[str, Any] | None = field(default=None, compare=False, repr=False)


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
    contents[POINT] = json_bytes(
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


def _fingerprint(content: bytes) -> dict[str, Any]:
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


class Store:
    """The results below an artifacts directory.

    `source` is the hash of the sources that affect results (default: of the running ones).
    """

    def __init__(self, root: Path | str = "artifacts", *, source: str | None = None) -> None:
        self.root = Path(root)
        self._source = source

    @cached_property
    def source(self) -> str:
        """Hash of the present sources; results made by others are stale."""
        return self._source or source_hash()

    def directory(self, spec: PointSpec) -> Path:
        """Directory of the point's files."""
        return self.root / "results" / spec.backend / name_of(spec)

    def failure_path(self, spec: PointSpec) -> Path:
        """Path of the record of a failed point."""
        return self.directory(spec).with_name(f"{name_of(spec)}.failure.json")

    def state(self, spec: PointSpec) -> State:
        """Whether the point is complete, stale, corrupt or missing."""
        return self.check(spec).state

    def check(self, spec: PointSpec) -> Check:
        """Like `state`, with the reason and, if it is valid, the stored record."""
        directory = self.directory(spec)
        if not (directory / POINT).exists():
            return Check(State.MISSING)
        try:
            record = _read_point(directory, spec)
        except RecordError as error:
            return Check(State.CORRUPT, str(error))
        provenance = record["provenance"]
        if provenance.get("source_sha256") != self.source:
            return Check(State.STALE, "made by other sources", record)
        stored = provenance.get("input_files", {})
        for name, digest in hash_inputs(spec).items():
            if stored.get(name) != digest:
                return Check(State.STALE, f"the {name.replace('_', ' ')} file has changed", record)
        return Check(State.COMPLETE, record=record)

    def write(self, spec: PointSpec, outcome: Outcome, *, provenance: Mapping[str, Any]) -> Path:
        """Write a finished point and remove its failure record; returns its directory."""
        directory = self.directory(spec)
        write_point(directory, spec, outcome, provenance=provenance)
        self.failure_path(spec).unlink(missing_ok=True)
        return directory

    def write_failure(self, spec: PointSpec, *, error: str, traceback: str = "") -> None:
        """Record why a point failed, beside its directory."""
        record = {"spec": spec.to_dict(), "error": error, "traceback": traceback.splitlines()}
        write_file(self.failure_path(spec), json_bytes(record))

    def load_record(self, spec: PointSpec) -> dict[str, Any]:
        """Return the verified content of `point.json`; raises UserError unless it is valid."""
        check = self.check(spec)
        if check.record is None:
            reason = check.reason or "there is none"
            raise UserError(f"result {self.directory(spec)} is unusable ({reason}): run it again")
        return check.record

    def kernels(self, part: str, *, backend: str) -> dict[str, Any] | None:
        """The measurement of a figure's microbenchmark, or None."""
        return find_measurement(self.root, part, backend=backend)

    def load(self, specs: Iterable[PointSpec]) -> pd.DataFrame:
        """Return one row per valid result among `specs`, in their order.

        Columns: the spec's fields, `digest`, `stale`, then the metrics (`kv_pct` as
        `kv_pct_token` and so on; a metric never replaces a setting of the same name). Missing and
        corrupt points have no row; `state` tells them apart.
        """
        import pandas as pd

        rows = [row for spec in dict.fromkeys(specs) if (row := self._row(spec)) is not None]
        empty = [*PointSpec(system=System.ASTRA).to_dict(), "digest", "stale"]
        return pd.DataFrame(rows) if rows else pd.DataFrame(columns=empty)

    def _row(self, spec: PointSpec) -> dict[str, Any] | None:
        check = self.check(spec)
        if check.record is None:
            return None
        row = {**spec.to_dict(), "digest": spec.digest, "stale": check.state is State.STALE}
        for key, value in flatten(check.record["metrics"]):
            row.setdefault(key, float("nan") if value is None else value)
        return row

    def load_requests(self, spec: PointSpec) -> pd.DataFrame:
        """Return one row per request of a valid result; raises UserError unless it is valid."""
        import pyarrow.parquet as pq

        self.load_record(spec)
        frame: pd.DataFrame = pq.read_table(self.directory(spec) / REQUESTS).to_pandas()
        return frame

    def lock(self, spec: PointSpec, *, wait: bool = True) -> AbstractContextManager[bool]:
        """Lock the point against other runs on the same artifacts."""
        return lock(self.directory(spec).with_name(f".{name_of(spec)}.lock"), wait=wait)

    def prepare(self) -> None:
        """Check that results can be written, and remove what dead runs left unfinished.

        Raises UserError before anything has run. Points locked by another run are left alone.
        """
        check_writable(self.root / "results")
        for partial in self.root.glob(f"results/*/*/{PARTIAL}"):
            directory = partial.parent
            with lock(directory.with_name(f".{directory.name}.lock"), wait=False) as held:
                if held:
                    shutil.rmtree(partial, ignore_errors=True)
                    if not any(directory.iterdir()):
                        directory.rmdir()
        for path in self.root.glob("results/*/.*.lock"):
            with lock(path, wait=False):
                pass  # releasing an unused lock removes its file


def name_of(spec: PointSpec) -> str:
    """Name of the point's directory; of a model's long path it has the end."""
    return f"{spec.slug[-200:]}-{spec.digest}".replace("/", "_")


def _read_point(directory: Path, spec: PointSpec) -> dict[str, Any]:
    """The content of `point.json`, checked against the spec and the files beside it.

    Raises RecordError for anything that cannot be trusted.
    """
    record = read_record(directory / POINT, expected_format=FORMAT)
    if record.get("spec") != plain(spec.to_dict()):
        raise RecordError(f"{POINT} describes another point")
    parts = [record.get(name) for name in ("files", "metrics", "provenance")]
    if not all(isinstance(part, dict) for part in parts):
        raise RecordError(f"{POINT} is incomplete")
    for name in (REQUESTS, METRICS):
        try:
            content = (directory / name).read_bytes()
        except FileNotFoundError:
            raise RecordError(f"{name} is missing") from None
        except OSError as error:
            raise RecordError(f"{name} cannot be read ({error.strerror})") from error
        if _fingerprint(content) != record["files"].get(name):
            raise RecordError(f"{name} does not match its checksum")
    if read_record(directory / METRICS) != _stable(record["metrics"]):
        raise RecordError(f"{METRICS} and {POINT} disagree")
    return record


def _stable(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics that are equal on every run of a point."""
    return {key: value for key, value in metrics.items() if key not in TIMES}


def flatten(metrics: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """Metrics by name, the parts of `kv_pct` as `kv_pct_token` and so on."""
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}_{inner}", item) for inner, item in value.items())
        else:
            yield key, value
