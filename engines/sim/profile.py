"""Device profiles: the rates of a simulated device and its host, in SI units, from TOML."""

from __future__ import annotations

import hashlib
import math
import os
import tomllib
from dataclasses import MISSING, dataclass, field, fields
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

from engines.core.errors import UserError, unknown_name
from engines.sim.steps import Speed, StepTable, from_csv

_DATA = resources.files("engines.sim")
LEAST = 1e6  # no device is so slow or so small: a number below is in GB/s, TFLOP/s or GB
_IN_UNITS = "a number in B/s, FLOP/s or bytes, such as 300e9"


@dataclass(frozen=True, kw_only=True)
class DeviceProfile:
    """Effective rates of one device; a rate of `inf` makes its term of the step time free.

    Bandwidths are in B/s, `flops` (dense layers) and `attention_flops` (prompt attention) in
    FLOP/s, times in seconds. `kv_block_efficiency` maps a block size to a factor on
    `kv_bandwidth`. Host time of systems that drive workers, prepare inputs and sample in Python:
    `worker_overhead_s` per device, `group_overhead_s` per running request, plus `draw_overhead_s`
    unless it decodes greedily and `beam_overhead_s` if it uses beam search,
    `worker_group_overhead_s` per device and running request, `sequence_overhead_s` per sequence
    that gets a token; per beam that is replaced, `fork_token_overhead_s` per token of the beam that
    it continues and `fork_output_overhead_s` per token of its output. `host` names whose times
    these are.
    `element_bytes` is the size of the type in which models are served (2, or 4 for FP32), by
    default the model's own. `calibrated` maps each fitted parameter to the number that it was
    fitted on, `assumed` each that was taken from a data sheet to how. `steps` are whole steps that
    were measured with one model, whose simulation interpolates them; rates serve all others.
    """

    name: str
    memory_bytes: float
    weight_bandwidth: float
    kv_bandwidth: float
    flops: float
    attention_flops: float
    copy_bandwidth: float
    pcie_bandwidth: float
    pcie_latency_s: float
    link_bandwidth: float
    link_latency_s: float
    step_overhead_s: float
    worker_overhead_s: float = 0.0
    group_overhead_s: float = 0.0
    draw_overhead_s: float = 0.0
    worker_group_overhead_s: float = 0.0
    beam_overhead_s: float = 0.0
    fork_token_overhead_s: float = 0.0
    fork_output_overhead_s: float = 0.0
    sequence_overhead_s: float = 0.0
    element_bytes: float | None = None
    kv_block_efficiency: dict[int, float] = field(default_factory=dict, hash=False)
    calibrated: dict[str, str] = field(default_factory=dict, hash=False)
    assumed: dict[str, str] = field(default_factory=dict, hash=False)
    host: str = "the profile's own"
    steps: StepTable | None = field(default=None, hash=False)
    sha256: str = ""
    files: dict[str, str] = field(default_factory=dict, hash=False)  # SHA-256 of each, by option

    def __post_init__(self) -> None:
        latencies = [f.name for f in fields(self) if f.name.endswith(("latency_s", "overhead_s"))]
        for spec in fields(self):
            value = getattr(self, spec.name)
            if spec.type != "float":
                continue
            least = 0.0 if spec.name in latencies else math.nextafter(0, 1)
            if math.isnan(value) or value < least:
                raise UserError(
                    f"device profile '{self.name}': {spec.name} must be "
                    f"{'at least 0' if least == 0 else 'positive'}, got {value}"
                )
            if math.isinf(value) and spec.name in (*latencies, "memory_bytes"):
                raise UserError(f"device profile '{self.name}': {spec.name} must be finite")
        if self.element_bytes not in (None, 2, 4):
            raise UserError(
                f"device profile '{self.name}': element_bytes must be 2 or 4, got "
                f"{self.element_bytes:g}"
            )
        if not all(factor > 0 for factor in self.kv_block_efficiency.values()):
            raise UserError(f"device profile '{self.name}': kv_block_efficiency must be positive")


_FIELDS = {f.name: f for f in fields(DeviceProfile) if f.name not in ("sha256", "files")}
HOST_TERMS = [name for name in _FIELDS if name.endswith("overhead_s")]
_TABLES = ("kv_block_efficiency", "calibrated", "assumed", "data_sheet", "shares", "steps")
_OF_STEPS = {"model": str, "block_size": int, "csv": str}


def names_of(folder: str) -> list[str]:
    """Names of the "profiles" or "hosts" that ship with the project."""
    names = [file.name for file in (_DATA / folder).iterdir()]
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def load_profile(name_or_path: str, host: str | None = None) -> DeviceProfile:
    """Load a shipped profile by name, or one from a file; raises UserError if it is invalid.

    `host` replaces the profile's host: the name of a shipped one, or a TOML file with host times,
    which may be another profile, such as one that `bench profile` has measured.
    """
    source = f"device profile {name_or_path}"
    values, text = _read("device profile", "profiles", name_or_path)
    texts = {"device_profile": text}
    try:
        if not {"data_sheet", "shares"}.isdisjoint(values):
            values = _from_data_sheet(values, source)
        if host is not None:
            values = _without_host(values) | {"host": host}
        if "host" in values:
            terms, more = _read("host", "hosts", values["host"])
            values, texts["host"] = _with_host(values, terms), more
        if "steps" in values:
            values["steps"] = _steps_table(values["steps"], source)
        if "kv_block_efficiency" in values:
            values["kv_block_efficiency"] = _block_table(values["kv_block_efficiency"], source)
        digests = {name: hashlib.sha256(each).hexdigest() for name, each in texts.items()}
        whole = hashlib.sha256(b"".join(texts.values())).hexdigest()
        return _build(values, source, sha256=whole, files=digests)
    except OverflowError:
        raise UserError(f"{source} has a whole number beyond 1e308") from None


def _build(values: dict[str, Any], source: str, **read: Any) -> DeviceProfile:
    required = {name for name, f in _FIELDS.items() if f.default is f.default_factory is MISSING}
    if missing := sorted(required - values.keys()):
        raise UserError(f"{source} lacks {', '.join(missing)}")
    return DeviceProfile(**values, **read)


def _read(kind: str, folder: str, name_or_path: str) -> tuple[dict[str, Any], bytes]:
    """The values of a shipped TOML file or of the user's, checked by type, and its text."""
    known, path, source = names_of(folder), Path(name_or_path), f"{kind} {name_or_path}"
    shipped = name_or_path in known
    if not shipped and not os.path.isfile(path):
        if path.suffix != ".toml":
            raise unknown_name(kind, name_or_path, known)
        if os.path.lexists(path):  # it is read again to tell whether it has changed
            raise UserError(f"{source} is not a regular file")
    try:
        text = (_DATA / folder / f"{name_or_path}.toml" if shipped else path).read_bytes()
        values = tomllib.loads(text.decode())
    except OSError as error:
        raise UserError(f"cannot read {source}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source} is not valid TOML: {error}") from None
    if unknown := sorted(values.keys() - _FIELDS.keys() - set(_TABLES)):
        raise UserError(f"{source} has unknown {', '.join(unknown)}")
    for name, value in values.items():
        wanted = str if name in ("name", "host") else dict if name in _TABLES else (int, float)
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise UserError(f"{source}: {name} has the wrong type: {value!r}")
    return values, text


def _steps_table(table: dict[str, Any], source: str) -> StepTable:
    for name, kind in _OF_STEPS.items():
        if type(table.get(name)) is not kind or not table[name]:
            wanted = "text" if kind is str else "a whole number"
            raise UserError(f"{source}: steps.{name} must be {wanted}, got {table.get(name)!r}")
    rows = from_csv(table["csv"].lstrip("\n"), f"{source}, steps.csv")
    pulse, waking = table.get("pulse_s"), table.get("waking", [])
    if type(pulse) is float:  # of an earlier version: one for any number of rows
        pulse = [pulse, pulse]
    wanted = f"{source}: steps.pulse_s must be two times in seconds"
    speed = Speed() if pulse is None else Speed(*_two_times(pulse, wanted))
    wanted = f"{source}: steps.waking must be pairs of times in seconds"
    pairs = waking if type(waking) is list else [waking]
    late = tuple(_two_times(pair, wanted) for pair in pairs)
    if any(one >= two for (one, _), (two, _) in pairwise(late)):
        raise UserError(f"{source}: the idle times of steps.waking must rise, got {waking!r}")
    return StepTable(table["model"], table["block_size"], rows, speed, late)


def _two_times(given: Any, wanted: str) -> tuple[float, float]:
    times = given if type(given) is list else ()
    if len(times) != 2 or not all(type(t) in (int, float) and 0 < t < math.inf for t in times):
        raise UserError(f"{wanted}, got {given!r}")
    return float(times[0]), float(times[1])


def _from_data_sheet(values: dict[str, Any], source: str) -> dict[str, Any]:
    """Fill in rates as shares of the data sheet's numbers, and what such devices have in common."""
    filled = tomllib.loads((_DATA / "data_sheet.toml").read_text(encoding="utf-8"))
    rules, filled["assumed"] = filled.pop("rules"), {}
    sheet, shares = values.pop("data_sheet", {}), values.pop("shares", {})
    allowed = {"data_sheet": {rule["of"] for rule in rules.values()}, "shares": set(rules)}
    for table, given in (("data_sheet", sheet), ("shares", shares)):
        for name, value in given.items():
            if name not in allowed[table]:
                known = sorted(allowed[table])
                raise UserError(f"{source}: {unknown_name(f'name in {table}', name, known)}")
            low, high = (0.0, 1.0) if table == "shares" else (LEAST, math.inf)
            if type(value) not in (int, float) or not low < value <= high:
                wanted = "a share, above 0 and at most 1" if table == "shares" else _IN_UNITS
                raise UserError(f"{source}: {table}.{name} must be {wanted}, got {value!r}")
    for name in [name for name in rules if name not in values]:
        rule = rules[name]
        if rule["of"] not in sheet:
            raise UserError(f"{source}: data_sheet lacks {rule['of']}")
        share = shares.get(name, rule["share"])
        filled[name] = share * sheet[rule["of"]]
        filled["assumed"][name] = f"{share:.3g} of {rule['of']}; kernels reach {rule['range']}"
    return filled | values


def _without_host(values: dict[str, Any]) -> dict[str, Any]:
    fitted = values.get("calibrated", {})
    # Measured steps hold their host's times.
    kept = {name: value for name, value in values.items() if name not in (*HOST_TERMS, "steps")}
    return kept | {"calibrated": {n: what for n, what in fitted.items() if n not in HOST_TERMS}}


def _with_host(values: dict[str, Any], terms: dict[str, Any]) -> dict[str, Any]:
    """Add a host's terms to a profile, which may have some of its own."""
    if terms.keys().isdisjoint(HOST_TERMS):
        raise UserError(f"host {values['host']} has none of {', '.join(HOST_TERMS)}")
    fitted = {n: what for n, what in terms.get("calibrated", {}).items() if n in HOST_TERMS}
    host = {"step_overhead_s": 0.0} | {n: terms[n] for n in HOST_TERMS if n in terms}
    return {**host, **values, "calibrated": fitted | values.get("calibrated", {})}


def _block_table(table: dict[str, Any], source: str) -> dict[int, float]:
    try:
        return {int(size): float(factor) for size, factor in table.items()}
    except (TypeError, ValueError, OverflowError):
        raise UserError(
            f"{source}: kv_block_efficiency maps block sizes to numbers, got {table!r}"
        ) from None
