"""One point of an experiment: everything that determines its result, in one frozen record."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from bench.files import plain
from bench.records import RecordError, check
from bench.workloads.formats import parse_columns
from bench.workloads.replay import Selection, TooLong, ZeroOutput
from engines.core.config import MOST_KV_SLOTS, Preemption, System, parse_size
from engines.core.errors import UserError, unknown_name
from engines.core.model_config import config_file
from engines.core.models import is_path
from engines.core.sampling import SamplingParams
from engines.core.text import shown


class Backend(StrEnum):
    """What runs a point; AUTO is settled at the command line."""

    AUTO = "auto"
    CUDA = "cuda"
    CPU = "cpu"
    SIM = "sim"


class Router(StrEnum):
    """What shares requests out among replicas."""

    ROUND_ROBIN = "round-robin"
    LEAST_LOADED = "least-loaded"


class MemorySize(str):
    """A memory size as it was written, such as "40GiB"; raises UserError for anything else."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.num_bytes = parse_size(text)


BACKENDS = tuple(backend.value for backend in Backend)
_ONE_SEQUENCE = SamplingParams()
DEFAULT_ROUTER = Router.ROUND_ROBIN
MAX_SEED = (1 << 32) - 1
Kind = TypeVar("Kind", bound=StrEnum)


def parse_name(kind: type[Kind], name: str) -> Kind:
    """Return the member of an enumeration called `name`; raises UserError naming the others."""
    try:
        return kind(name)
    except ValueError:
        raise unknown_name(kind.__name__.lower(), name, kind) from None


_TYPES: Mapping[str, Callable[[str], object]] = {
    "system": partial(parse_name, System),
    "sampling": SamplingParams.parse,
    "backend": partial(parse_name, Backend),
    "gpu_memory": MemorySize,
    "preemption": partial(parse_name, Preemption),
    "router": partial(parse_name, Router),
    "too_long": partial(parse_name, TooLong),
    "zero_output": partial(parse_name, ZeroOutput),
}
_Rule = tuple[str, Callable[[Any], bool]]
_POSITIVE: _Rule = ("be a positive number", lambda value: 0 < value < math.inf)
_AT_LEAST_ONE: _Rule = ("be at least 1", lambda value: value >= 1)
_RULES: Mapping[str, _Rule] = {
    "rate": _POSITIVE,
    "duration": _POSITIVE,
    "seed": ("not be negative", lambda value: value >= 0),
    "warmup": ("not be negative", lambda value: value >= 0),
    "timeout": ("be positive", lambda value: value > 0),
    "swap_space_gib": ("not be negative", lambda value: 0 <= value < math.inf),
    "tensor_parallel": _AT_LEAST_ONE,
    "shrink": _AT_LEAST_ONE,
    "replicas": _AT_LEAST_ONE,
    "limit": _AT_LEAST_ONE,
    "start": ("not be negative", lambda value: 0 <= value < math.inf),
    "end": _POSITIVE,
    "speed": _POSITIVE,
}
_TITLES = {"tensor_parallel": "tensor-parallel degree", "swap_space_gib": "swap space"}
# Beyond every machine, and within what this one can keep lists of.
_AT_MOST: Mapping[str, float] = {
    "duration": 1_000_000,  # 11.6 days: drawing what arrives in each 10 ms takes a second or two
    "seed": MAX_SEED,
    "tensor_parallel": 1024,
    "replicas": 10_000,
    "kv_slots": MOST_KV_SLOTS,
    "max_batched_tokens": MOST_KV_SLOTS,
    "swap_space_gib": 100_000,
}
# Settings that mean nothing to the simulation, and what to use instead.
_OF_MODELS = {"gpu_memory": "--kv-slots or --device-profile", "dtype": "--device-profile"}
# Settings of a trace, which are not part of the identity of other points.
OF_TRACES = ("trace_column", *(field.name for field in fields(Selection)))


@dataclass(frozen=True, kw_only=True)
class PointSpec(Selection):
    """The options of `bench run`, validated. `None` means: the default for model and device.

    The names of a system, sampling and so on may be given as strings; they become types here and
    are parsed nowhere else. Raises UserError for a value that is unknown or out of range.

    Times are in seconds, `rate` in requests per second. `window` bounds the steps over which
    running requests and memory are averaged; `warmup` drops early arrivals from latency.
    `gpu_memory` stands in for a smaller device when KV slots are derived from memory. `shrink`
    divides all lengths and the model's context, for runs in miniature. `timeout` ends serving
    early, with requests unfinished. `trace` replays a file with the rate and duration that it has
    itself (without arrivals, at `rate`); `trace_column` says how it is read, and the settings of
    `Selection` what of it is served. `lengths` replaces a workload's shipped length
    statistics by a file. `model` is a name, or a path: a config.json suffices to simulate it.
    `host` replaces a simulated device's host times. `replicas` engines, each on devices of its own,
    share the arrivals out through `router` (simulation only).
    """

    system: System
    model: str = "opt-13b"
    workload: str = "sharegpt"
    trace: str | None = None
    trace_column: tuple[str, ...] = ()
    lengths: str | None = None
    rate: float = 1.0
    duration: float = 600.0
    seed: int = 0
    sampling: SamplingParams = _ONE_SEQUENCE
    block_size: int = 16
    backend: Backend = Backend.SIM
    device_profile: str | None = None
    host: str | None = None
    tensor_parallel: int | None = None
    kv_slots: int | None = None
    gpu_memory: MemorySize | None = None
    dtype: str | None = None
    shrink: int = 1
    swap_space_gib: float = 20.0
    max_batch_size: int | None = None
    max_batched_tokens: int = 2560
    max_num_seqs: int | None = None
    preemption: Preemption = Preemption.AUTO
    share_prefix: bool = False
    warmup: float | None = None
    timeout: float | None = None
    window: tuple[float, float] | None = None
    replicas: int = 1
    router: Router | None = None

    def __post_init__(self) -> None:
        for name, parse in _TYPES.items():
            value = getattr(self, name)
            if type(value) is str:
                object.__setattr__(self, name, parse(value))
        for each in fields(self):
            if getattr(self, each.name) == "":
                raise UserError(f"{each.name} is empty")
        self._check_numbers()
        self._check_backend()
        self._check_trace()

    def _check_numbers(self) -> None:
        for name, (requirement, holds) in _RULES.items():
            if (value := getattr(self, name)) is not None and not holds(value):
                raise UserError(f"{_TITLES.get(name, name)} must {requirement}, got {value:g}")
        for name, most in _AT_MOST.items():
            if (value := getattr(self, name)) is not None and value > most:
                raise UserError(f"{name} must be at most {most:,}, got {value:,}")
        if self.window is not None and not 0 <= self.window[0] < self.window[1]:
            raise UserError(f"window must be START:END with 0 <= START < END, got {self.window}")

    def _check_backend(self) -> None:
        for name, instead in _OF_MODELS.items():
            value = getattr(self, name)
            if self.backend is Backend.SIM and value is not None:
                flag = "--" + name.replace("_", "-")
                raise UserError(
                    f"{flag} {value} counts only where a model runs (--backend cpu or cuda): give "
                    f"{instead} to the simulation"
                )
        if self.measured and self.host is not None:
            raise UserError(
                f"--host {self.host} counts only for --backend sim, got backend '{self.backend}'"
            )
        if self.replicas == 1 and self.router is not None:
            raise UserError(
                f"router '{self.router}' has nothing to choose from: give --replicas 2 or more"
            )
        if self.replicas > 1 and self.backend is not Backend.SIM:
            raise UserError(
                f"replicas are simulated only, got --replicas {self.replicas} with backend "
                f"'{self.backend}': use --backend sim"
            )

    def _check_trace(self) -> None:
        parse_columns(self.trace_column)
        given = [name for name in OF_TRACES if getattr(self, name) != getattr(PointSpec, name)]
        if self.trace is None:
            for name in given:
                flag = "--" + name.replace("_", "-")
                raise UserError(f"{flag} counts only for a trace: give --trace FILE, or omit it")
        elif self.lengths is not None:
            raise UserError(
                f"a trace has its own lengths: give --trace {self.trace} or --lengths "
                f"{self.lengths}, not both"
            )
        elif self.duration != PointSpec.duration:
            raise UserError(
                "a trace has its own duration: omit --duration (--end cuts it, --window bounds "
                "what is averaged)"
            )
        if self.end is not None and not (self.start or 0.0) < self.end:
            raise UserError(
                f"--end must be later than --start, got {self.start:g} and {self.end:g}"
            )

    @property
    def measured(self) -> bool:
        """Whether a model runs, so that times are this machine's."""
        return self.backend in (Backend.CPU, Backend.CUDA)

    @property
    def input_files(self) -> dict[str, Path]:
        """The files that settings name, by field; of a simulated model its config.json."""
        fields_of_files = ("trace", "lengths", "device_profile", "host")
        paths = {name: Path(getattr(self, name) or "") for name in fields_of_files}
        if not self.measured and is_path(self.model):
            paths["model"] = config_file(self.model)
        return {name: path for name, path in paths.items() if path.is_file()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; read back by `from_dict`.

        A single engine has no entries for replicas, a device's own host none for it, and settings
        of a trace none at their defaults, so that the identity of such points does not depend on
        them.
        """
        values = {
            field.name: plain_setting(getattr(self, field.name))
            for field in fields(self)
            if field.name not in OF_TRACES or getattr(self, field.name) != field.default
        }
        if self.replicas == 1:
            del values["replicas"], values["router"]
        if self.host is None:
            del values["host"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PointSpec:
        """Rebuild a spec; raises UserError for keys of another version and for values of no use."""
        types = _json_types()
        if unknown := sorted(values.keys() - types.keys()):
            raise UserError(f"point has unknown settings: {', '.join(map(shown, unknown))}")
        if "system" not in values:
            raise UserError("point lacks the setting system")
        try:
            for name, value in values.items():
                check(plain(value), types[name], name)
        except RecordError as error:
            raise UserError(str(error)) from None
        tuples = {
            name: tuple(values[name]) for name in ("window", "trace_column") if values.get(name)
        }
        return cls(**{**values, **tuples})

    @property
    def digest(self) -> str:
        """First 12 hex digits of the SHA-256 of the spec: the point's identity."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def __str__(self) -> str:
        return self.slug

    @property
    def slug(self) -> str:
        """A readable name, unique together with `digest`."""
        source = "trace" if self.trace else self.workload
        several = f"_x{self.replicas}" if self.replicas > 1 else ""
        own = self.trace is not None and self.rate == PointSpec.rate  # perhaps the trace's
        rate = "" if own else f"_r{self.rate:g}"
        return f"{self.system}_{self.model}_{source}_{self.sampling.name}{rate}{several}"


@cache
def _json_types() -> dict[str, Any]:
    """What JSON holds for each field."""
    return {**get_type_hints(PointSpec), "sampling": str}


def plain_setting(value: object) -> Any:
    """The value that JSON stores: strings for types, everything else as it is."""
    if isinstance(value, SamplingParams):
        return value.name
    return str(value) if isinstance(value, str) else value
