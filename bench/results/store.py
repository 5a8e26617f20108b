"""The store of results: one directory per point, written atomically, verified on every read.

`<root>/results/<backend>/<slug>-<digest>/` holds the files of a point; see
`bench.results.point_files`. A failed point leaves `<slug>-<digest>.failure.json` beside it until it
succeeds.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bench.files import PARTIAL, check_writable, lock, write_file
from bench.point.spec import PointSpec
from bench.records import RecordError, read_record, seal
from bench.results.measurements import Measurement, find_measurement
from bench.results.point_files import (
    FORMAT,
    REQUESTS,
    Failure,
    PointRecord,
    read_point,
    write_point,
)
from bench.results.provenance import hash_inputs, source_hash
from engines.core.config import System
from engines.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from bench.point.serve import Outcome


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
    record: PointRecord | None = field(default=None, compare=False, repr=False)


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
        return self.root / folder_of(spec)

    def failure_path(self, spec: PointSpec) -> Path:
        """Path of the record of a failed point."""
        return self.directory(spec).with_name(f"{name_of(spec)}.failure.json")

    def state(self, spec: PointSpec) -> State:
        """Whether the point is complete, stale, corrupt or missing."""
        return self.check(spec).state

    def check(self, spec: PointSpec) -> Check:
        """Like `state`, with the reason and, if it is valid, the stored record."""
        return self._examine(spec)[0]

    def _examine(self, spec: PointSpec) -> tuple[Check, bytes]:
        """A point's check, and of a valid one the file of its requests, all of the same run."""
        try:
            found = read_point(self.directory(spec), spec)
        except RecordError as error:
            return Check(State.CORRUPT, str(error)), b""
        if found is None:
            return Check(State.MISSING), b""
        record, requests = found
        provenance = record["provenance"]
        if provenance["source_sha256"] != self.source:
            return Check(State.STALE, "made by other sources", record), requests
        for name, digest in hash_inputs(spec).items():
            if provenance["input_files"].get(name) != digest:
                reason = f"the {name.replace('_', ' ')} file has changed"
                return Check(State.STALE, reason, record), requests
        return Check(State.COMPLETE, record=record), requests

    def write(self, spec: PointSpec, outcome: Outcome, *, provenance: Mapping[str, Any]) -> Path:
        """Write a finished point and remove its failure record; returns its directory."""
        directory = self.directory(spec)
        write_point(directory, spec, outcome, provenance=provenance)
        self.failure_path(spec).unlink(missing_ok=True)
        return directory

    def write_failure(self, spec: PointSpec, *, error: str, traceback: str = "") -> None:
        """Record why a point failed, beside its directory."""
        failure: Failure = {
            "format": FORMAT,
            "spec": spec.to_dict(),
            "error": error,
            "traceback": traceback.splitlines(),
        }
        write_file(self.failure_path(spec), seal(failure))

    def load_failure(self, spec: PointSpec) -> Failure | None:
        """Why a point failed; None where there is no sound record of that."""
        try:
            found: Any = read_record(self.failure_path(spec), Failure, expected_format=FORMAT)
        except RecordError:
            return None
        return cast(Failure, found)

    def load_record(self, spec: PointSpec) -> PointRecord:
        """Return the verified content of `point.json`; raises UserError unless it is valid."""
        return self._require(spec, self.check(spec))

    def _require(self, spec: PointSpec, check: Check) -> PointRecord:
        if check.record is None:
            reason = check.reason or "there is none"
            raise UserError(f"result {self.directory(spec)} is unusable ({reason}): run it again")
        return check.record

    def kernels(self, part: str, *, backend: str) -> Measurement | None:
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
        import pyarrow as pa
        import pyarrow.parquet as pq

        check, content = self._examine(spec)
        self._require(spec, check)
        try:
            frame: pd.DataFrame = pq.read_table(io.BytesIO(content)).to_pandas()
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{REQUESTS} of {self.directory(spec)} is no table: {error}") from error
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


class Snapshot(Store):
    """A store that reads each file once, so that all that is shown of it is of one run."""

    def __init__(self, root: Path | str = "artifacts", *, source: str | None = None) -> None:
        super().__init__(root, source=source)
        self._check_once = cache(super().check)
        self._kernels_once = cache(super().kernels)

    def check(self, spec: PointSpec) -> Check:
        """See `Store.check`."""
        return self._check_once(spec)

    def kernels(self, part: str, *, backend: str) -> Measurement | None:
        """See `Store.kernels`."""
        return self._kernels_once(part, backend=backend)


def folder_of(spec: PointSpec) -> Path:
    """The point's directory below the artifacts."""
    return Path("results", spec.backend, name_of(spec))


def name_of(spec: PointSpec) -> str:
    """Name of the point's directory; of a model's long path it has the end."""
    return f"{spec.slug[-200:]}-{spec.digest}".replace("/", "_")


def flatten(metrics: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """Metrics by name, the parts of `kv_pct` as `kv_pct_token` and so on."""
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}_{inner}", item) for inner, item in value.items())
        else:
            yield key, value
