"""Device profiles: the rates of a simulated device, in SI units, read from TOML."""

from __future__ import annotations

import hashlib
import math
import os
import tomllib
from dataclasses import MISSING, dataclass, field, fields
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from engines.core.errors import UserError, unknown_name


@dataclass(frozen=True, kw_only=True)
class DeviceProfile:
    """Effective rates of one device; a rate of `inf` makes its term of the step time free.

    Bandwidths are in B/s, `flops` (dense layers) and `attention_flops` (prompt attention) in
    FLOP/s, times in seconds. `kv_block_efficiency` maps a block size to a factor on
    `kv_bandwidth`. Host time of systems that drive workers, prepare inputs and sample in Python:
    `worker_overhead_s` per device, `group_overhead_s` per running request, plus `draw_overhead_s`
    unless it decodes greedily and `beam_overhead_s` if it uses beam search, and
    `sequence_overhead_s` per sequence that gets a token.
    `copy_latency_s` is per transfer, one of a block's K or V in one layer, on the device.
    `element_bytes` is the size of the type in which models are served (4: FP32).
    `calibrated` maps each fitted parameter to the number that it was fitted on.
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
    beam_overhead_s: float = 0.0
    sequence_overhead_s: float = 0.0
    copy_latency_s: float = 0.0
    element_bytes: float = 2.0
    kv_block_efficiency: dict[int, float] = field(default_factory=dict, hash=False)
    calibrated: dict[str, str] = field(default_factory=dict, hash=False)
    sha256: str = ""

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
        if self.element_bytes not in (2, 4):
            raise UserError(
                f"device profile '{self.name}': element_bytes must be 2 or 4, got "
                f"{self.element_bytes:g}"
            )
        if not all(factor > 0 for factor in self.kv_block_efficiency.values()):
            raise UserError(f"device profile '{self.name}': kv_block_efficiency must be positive")

    @cached_property
    def values(self) -> dict[str, Any]:
        """All parameters by name, for provenance."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def profile_names() -> list[str]:
    """Names of the profiles that ship with the project."""
    folder = resources.files("engines.sim") / "profiles"
    names = [file.name for file in folder.iterdir()]
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def load_profile(name_or_path: str) -> DeviceProfile:
    """Load a shipped profile by name, or one from a file; raises UserError if it is invalid."""
    if name_or_path in profile_names():
        folder = resources.files("engines.sim") / "profiles"
        return _parse((folder / f"{name_or_path}.toml").read_bytes(), name_or_path)
    path = Path(name_or_path)
    if path.suffix != ".toml" and not os.path.isfile(path):
        raise unknown_name("device profile", name_or_path, profile_names())
    try:
        return _parse(path.read_bytes(), str(path))
    except OSError as error:
        raise UserError(f"cannot read device profile {path}: {error.strerror}") from None


def _parse(text: bytes, source: str) -> DeviceProfile:
    try:
        values = tomllib.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise UserError(f"device profile {source} is not valid TOML: {error}") from None
    known = {f.name: f for f in fields(DeviceProfile) if f.name != "sha256"}
    tables = {"kv_block_efficiency", "calibrated"}
    optional = tables | {name for name, spec in known.items() if spec.default is not MISSING}
    missing = sorted(known.keys() - optional - values.keys())
    unknown = sorted(values.keys() - known.keys())
    if missing or unknown:
        problem = f"lacks {', '.join(missing)}" if missing else f"has unknown {', '.join(unknown)}"
        raise UserError(f"device profile {source} {problem}")
    for name, value in values.items():
        wanted = str if name == "name" else dict if name in tables else (int, float)
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise UserError(f"device profile {source}: {name} has the wrong type: {value!r}")
    if "kv_block_efficiency" in values:
        values["kv_block_efficiency"] = _block_table(values["kv_block_efficiency"], source)
    try:
        return DeviceProfile(**values, sha256=hashlib.sha256(text).hexdigest())
    except OverflowError:
        raise UserError(f"device profile {source} has a whole number beyond 1e308") from None


def _block_table(table: dict[str, Any], source: str) -> dict[int, float]:
    try:
        return {int(size): float(factor) for size, factor in table.items()}
    except (TypeError, ValueError, OverflowError):
        raise UserError(
            f"device profile {source}: kv_block_efficiency maps block sizes to "
            f"numbers, got {table!r}"
        ) from None
