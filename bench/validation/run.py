"""One validation: noise first, then every case served and simulated, then the errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from bench.claims.bisection import Bracket, bisect
from bench.claims.bisection import Target as Limit
from bench.devices.cases import Subject
from bench.devices.profile import Effort, measure_profile
from bench.experiments.capacity import LATENCY
from bench.files import write_file
from bench.point.model import load_platform
from bench.point.serve import run_point
from bench.point.spec import Backend, PointSpec
from bench.records import seal
from bench.results.provenance import environment
from bench.results.store import Store
from bench.validation.cases import Case, Target
from bench.validation.compare import (
    METRICS,
    by_kind,
    errors_of,
    judge,
    order_errors,
    relative,
    step_errors,
    step_noise,
    sustained_error,
)
from bench.validation.record import FILE, FORMAT, SAMPLES
from bench.validation.serve import Server, price_steps, simulate_paced
from engines.core.errors import UserError
from engines.sim.profile import load_profile

PROFILE, AGAIN = "profile.toml", "again"
MOST_SAMPLES = 100  # steps and requests of each point that the figure shows
LIMIT_TIMES = 5.0  # a rate is sustained up to this many times the latency of a lone request
_FIRST_RATE, _LIGHT_RATE = 0.5, 0.01


@dataclass(frozen=True)
class Plan:
    """A case with the rates that the simulation gives it."""

    case: Case
    limit_s: float
    sustained: float

    def spec(self, load: float) -> PointSpec:
        """The point at a share of the sustained rate."""
        return self.case.at(load * self.sustained)


@dataclass(frozen=True)
class Validation:
    """Serves and simulates a target's cases below a directory, with its profile there."""

    target: Target
    root: Path
    tell: Callable[[str], None]
    advance: Callable[[str], Any]  # a context that shows a named point's progress

    @property
    def profile(self) -> Path:
        """The profile of the same device."""
        return self.root / PROFILE

    def measure(self, subject: Subject, effort: Effort) -> None:
        """Measure the profile unless it is there."""
        if not self.profile.is_file():
            with self.advance(f"profile of {subject.device}") as tell:
                text = measure_profile(self.root.name, subject, effort, tell=tell)
            write_file(self.profile, text.encode())

    def run(self) -> dict[str, Any]:
        """Run what is not in the store yet, and write the result; raises UserError."""
        started = datetime.now(UTC)
        cases = self.target.cases()
        platform = load_platform(cases[0].at(_FIRST_RATE))
        slots = platform.default_slots() if cases[0].spec.kv_slots is None else None
        plans = [self._plan(case, slots) for case in cases]
        server, again = (Server(platform, Store(self.root / part)) for part in ("", AGAIN))
        self.tell("noise of this machine: the same points twice")
        for load in self.target.repeated:
            for each in (server, again):
                self._serve(each, plans[0].spec(load))
        noise = self._noise(server, again, plans[0])
        points: list[dict[str, Any]] = []
        samples, alike = [], []
        for plan in plans:
            for load in plan.case.loads:
                self._serve(server, plan.spec(load))
                point, shown, noises = self._compare(server, plan, load, slots)
                samples.append(shown.assign(point=len(points)))
                points.append(point)
                alike.append(noises)
        of_steps = pd.concat(alike)
        if len(of_steps):
            noise |= {"step_median": of_steps.median(), "step_p95": of_steps.quantile(0.95)}
        result = self._result(plans, points, noise, platform.device)
        result["provenance"] = {
            **environment(source=server.store.source, gpu=self.target.backend == "cuda"),
            "started": started.isoformat(timespec="seconds"),
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        table = pd.concat(samples).to_csv(index=False, float_format="%.5g")
        write_file(self.root / SAMPLES, table.encode())
        write_file(self.root / FILE, seal(result))
        return result

    def _serve(self, server: Server, spec: PointSpec) -> None:
        with self.advance(spec.slug) as advance:
            server.serve(spec, advance)

    def _twin(self, spec: PointSpec, slots: int | None) -> PointSpec:
        """The simulation of a served point, with `slots` for its cache if memory decides it."""
        return replace(
            spec,
            backend=Backend.SIM,
            dtype=None,
            gpu_memory=None,
            device_profile=str(self.profile),
            kv_slots=spec.kv_slots or slots,
        )

    def _plan(self, case: Case, slots: int | None) -> Plan:
        """Find by simulation what the case sustains; raises UserError."""

        def latency_of(spec: PointSpec) -> float:
            return float(run_point(self._twin(spec, slots)).metrics[LATENCY])

        duration_s = case.spec.duration
        light = latency_of(replace(case.at(_LIGHT_RATE), duration=60 * duration_s))
        target = Limit(LIMIT_TIMES * light, 0.01)
        try:
            found = bisect(
                [20 / duration_s],
                lambda rate: latency_of(case.at(rate)),
                target=target,
                duration_s=duration_s,
            )
        except UserError:
            raise UserError(
                f"by {self.profile} {case.spec.system} sustains any rate, or none, so it cannot be "
                "of this device: remove it, and have it measured while nothing else runs"
            ) from None
        assert isinstance(found, Bracket), "every latency is known"
        return Plan(case, target.limit_s_per_token, found.capacity)

    def _compare(
        self, server: Server, plan: Plan, load: float, slots: int | None
    ) -> tuple[dict[str, Any], pd.DataFrame, pd.Series]:
        """One point; a sample of its steps and requests, measured and predicted; steps' noise.

        What is predicted is told how fast the machine was while it served the point, by its pulse;
        `steady` is what it is without, at the speed at which the profile was measured.
        """
        spec = plan.spec(load)
        own = self._twin(spec, slots)
        measured = server.store.load_record(spec)["metrics"]
        steps = price_steps(pd.read_parquet(server.steps_path(spec)), own)
        steady, of_steady = run_point(own).metrics, step_errors(steps)
        slowness = steps["slowness"]
        simulated = simulate_paced(own, steps)
        steps["priced"] *= slowness
        predicted, of_steps = simulated.metrics, step_errors(steps)
        names = (*METRICS, "preemptions", "steps")
        served_s = seconds_of(server.store.load_requests(spec))
        simulated_s = seconds_of(pd.DataFrame(simulated.requests))
        shown = pd.concat(
            [
                sample(steps["seconds"], steps["priced"]).assign(kind="steps"),
                sample(served_s, simulated_s).assign(kind="requests"),
            ]
        )
        point = {
            "case": plan.case.name,
            "system": spec.system.value,
            "load": load,
            "rate": spec.rate,
            "duration": spec.duration,
            "requests": measured["requests"],
            "slowness": float((slowness * steps["seconds"]).sum() / steps["seconds"].sum()),
            "measured": {name: measured.get(name) for name in names},
            "predicted": {name: predicted.get(name) for name in names},
            "steady": {name: steady.get(name) for name in names},
            "extrapolated_steps": predicted.get("extrapolated_steps", 0),
            "errors": errors_of(measured, predicted, of_steps),
            "steady_errors": errors_of(measured, steady, of_steady),
            "steps": {"all": of_steps, **by_kind(steps)},
        }
        return point, shown, step_noise(steps)

    def _noise(self, server: Server, again: Server, plan: Plan) -> dict[str, float]:
        """The larger difference between two runs of one point, by metric, as a share."""
        found: dict[str, float] = {}
        for load in self.target.repeated:
            spec = plan.spec(load)
            one, two = (
                dict[str, Any](each.store.load_record(spec)["metrics"]) for each in (server, again)
            )
            for name in METRICS:
                difference = abs(relative(one.get(name), two.get(name)) or 0.0)
                found[name] = max(found.get(name, 0.0), difference)
        return found

    def _result(
        self,
        plans: Sequence[Plan],
        points: Sequence[dict[str, Any]],
        noise: Mapping[str, float],
        device: str,
    ) -> dict[str, Any]:
        sustained = []
        for plan in plans:
            if len(plan.case.loads) < 4:
                continue
            key = (plan.case.name, plan.case.spec.system.value)
            own = [p for p in points if (p["case"], p["system"]) == key]
            found = sustained_error(own, plan.limit_s)
            own[-1]["errors"]["sustained"] = found["error"]
            sustained.append({"case": key[0], "system": key[1],
                              "limit_s_per_token": plan.limit_s, **found})  # fmt: skip
        profile = load_profile(str(self.profile))
        return {
            "format": FORMAT,
            "model": self.target.model,
            "backend": self.target.backend.value,
            "device": device,
            "dtype": self.target.dtype,
            "short": self.target.short,
            "profile": {"name": profile.name, "sha256": profile.sha256},
            "noise": dict(noise),
            "points": list(points),
            "sustained": sustained,
            "wrong_orders": order_errors(sustained),
            "aims": judge(points, noise),
        }


def seconds_of(requests: pd.DataFrame) -> pd.Series:
    """From each request's arrival to its last token."""
    return requests["finish_s"] - requests["arrival_s"]


def sample(measured: pd.Series, predicted: pd.Series) -> pd.DataFrame:
    """At most MOST_SAMPLES pairs, evenly from all."""
    pairs = pd.DataFrame({"measured": measured, "predicted": predicted})
    return pairs.iloc[:: -(-len(pairs) // MOST_SAMPLES)]


def require_steps(profile: Path) -> None:
    """Raise UserError for a profile without measured steps."""
    if load_profile(str(profile)).steps is None:
        raise UserError(
            f"{profile} holds no measured steps, so there is nothing to validate: measure one with "
            "bench profile"
        )
