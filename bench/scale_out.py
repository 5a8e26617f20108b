"""What the simulator predicts for models past one device: memory, rates, limits, replicas."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.capacity_run import Sought, run_searches
from bench.capacity_search import Found, Search, Target
from bench.point import ROUTERS, PointSpec
from bench.pool import Place
from bench.progress import Display
from bench.results import Store
from engines.core.config import GIB, MODELS, ModelSpec
from engines.core.errors import UserError
from engines.execution.cost import StepCost, Work
from engines.execution.memory import default_slots
from engines.execution.profile import DeviceProfile, load_profile

MODEL_NAMES = ("opt-66b", "opt-175b")
DEVICES = ("a100-40gb", "a100-80gb", "h200")
DEGREES = (1, 2, 4, 8)
DEVICES_IN_NODE = 8
DURATION_S = 600.0
# Many replicas of the paper's smallest server, at its rate in Fig. 13 for each.
CROWD = PointSpec(system="astra", model="opt-13b", rate=128.0, duration=DURATION_S, replicas=64)
LOAD = 0.75  # of the sustained rate, where latencies are compared

# Terms of a step's time, by the device's parameters that they vanish without.
TERMS: Mapping[str, Mapping[str, Any]] = {
    "linear layers": {"weight_bandwidth": math.inf, "flops": math.inf},
    "KV cache": {"kv_bandwidth": math.inf},
    "prompts": {"attention_flops": math.inf},
    "link": {"link_bandwidth": math.inf, "link_latency_s": 0.0},
    "host": {
        "step_overhead_s": 0.0,
        "worker_overhead_s": 0.0,
        "group_overhead_s": 0.0,
        "draw_overhead_s": 0.0,
        "sequence_overhead_s": 0.0,
    },
}


@dataclass(frozen=True)
class Instance:
    """A model on `degree` devices that share it."""

    model: ModelSpec
    profile: DeviceProfile
    degree: int

    @property
    def weights_gib(self) -> float:
        """Weights on each device, in GiB."""
        return self.model.num_parameters * self.model.dtype_bytes / self.degree / GIB

    @property
    def slots(self) -> int | None:
        """KV slots in tokens; None where the model does not fit."""
        try:
            return default_slots(self.model, self.profile, self.degree)
        except UserError:
            return None

    def spec(self, replicas: int = 1, router: str | None = None) -> PointSpec:
        """ShareGPT on `replicas` instances; the rate is where a search starts."""
        return PointSpec(
            system="astra",
            model=self.model.name,
            device_profile=self.profile.name,
            tensor_parallel=self.degree,
            rate=float(replicas),
            duration=DURATION_S,
            replicas=replicas,
            router=router,
        )

    @property
    def replicas(self) -> int:
        """Instances on the devices of one node."""
        return DEVICES_IN_NODE // self.degree

    @property
    def fleets(self) -> dict[str, PointSpec]:
        """A node full of instances, by router; a single one needs none."""
        if self.replicas == 1:
            return {}
        return {router: self.spec(self.replicas, router) for router in ROUTERS}


def instances() -> Iterator[Instance]:
    """Every model on every device at every degree, whether it fits or not."""
    for model in MODEL_NAMES:
        for device in DEVICES:
            for degree in DEGREES:
                yield Instance(MODELS[model], load_profile(device), degree)


def fitting() -> list[Instance]:
    """The instances that leave room for a cache."""
    return [instance for instance in instances() if instance.slots is not None]


@dataclass(frozen=True)
class Step:
    """The mean step of an instance at the highest rate that it sustains.

    `terms` are seconds by the names of `TERMS`; `compute_bound` says whether the linear layers
    wait for the arithmetic and not for the weights.
    """

    running: float
    kv_used_pct: float
    terms: Mapping[str, float]
    compute_bound: bool

    @property
    def seconds(self) -> float:
        """The whole step."""
        return sum(self.terms.values())

    @property
    def longest(self) -> str:
        """The longest term's name."""
        return max(self.terms, key=lambda name: self.terms[name])


def search_rates(
    store: Store,
    chosen: Sequence[Instance],
    *,
    seeds: int,
    place: Place | None = None,
    display: Display | None = None,
) -> Sought:
    """Search the sustained rate of each instance, and of a node full of each with each router."""
    specs = [spec for one in chosen for spec in (one.spec(), *one.fleets.values())]
    searches = [Search.at(spec) for spec in specs]
    return run_searches(store, searches, target=Target(), seeds=seeds, place=place, display=display)


def crowd() -> list[PointSpec]:
    """The points of many replicas, one for each router."""
    return [replace(CROWD, router=router) for router in ROUTERS]


def loaded_specs(chosen: Sequence[Instance], sought: Sought) -> dict[PointSpec, PointSpec]:
    """The points at `LOAD` of what a node sustains, by the specs of its searches.

    All routers of one node are held against each other at one rate, by what the weakest sustains.
    """
    points = {}
    for one in chosen:
        specs = list(one.fleets.values()) or [one.spec()]
        weakest = min(sought.found[spec].mean.value for spec in specs)
        rate = float(f"{LOAD * weakest:.3g}")
        points.update({spec: replace(spec, rate=rate) for spec in specs})
    return points


def mean_step(store: Store, instance: Instance, found: Found) -> Step:
    """Where an instance's time goes at the highest sustained rate of its first seed.

    The step's work is the mean over all steps: running sequences, the context that they hold, and
    the prompts that a step computes. Prompts computed again after a preemption are left out.
    """
    seed, bracket = next(iter(found.brackets.items()))
    spec = replace(found.spec, seed=seed, rate=bracket.sustained)
    metrics = store.load_record(spec)["metrics"]
    lengths = store.load_requests(spec)["input_len"].astype("int64")
    steps = metrics["steps"]
    running = round(metrics["mean_running_requests"])
    work = Work(
        prompts=0,
        prompt_tokens=round(int(lengths.sum()) / steps),
        decodes=running,
        groups=running,
        context_tokens=round(metrics["kv_pct"]["token"] / 100 * metrics["kv_slots"]),
        prompt_squares=round(int((lengths**2).sum()) / steps),
    )
    return Step(
        metrics["mean_running_requests"],
        metrics["kv_used_pct"],
        terms_of(instance, work),
        compute_bound=_seconds(instance, work, {"weight_bandwidth": math.inf})
        == _seconds(instance, work, {}),
    )


def terms_of(instance: Instance, work: Work) -> dict[str, float]:
    """Seconds of each term of a step: what the step would be shorter by without it."""
    whole = _seconds(instance, work, {})
    return {name: whole - _seconds(instance, work, free) for name, free in TERMS.items()}


def _seconds(instance: Instance, work: Work, free: Mapping[str, Any]) -> float:
    cost = StepCost(
        instance.model,
        replace(instance.profile, **free),
        tensor_parallel=instance.degree,
        block_size=16,
        python_host=True,
    )
    return cost.seconds(work)
