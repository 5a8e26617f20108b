"""Workloads: request lengths, arrivals, conversations and traces, all reproducible by seed."""

from bench.workloads.assumed import Assumption, assumptions
from bench.workloads.build import WORKLOADS, Workload, build_workload

__all__ = ["WORKLOADS", "Assumption", "Workload", "assumptions", "build_workload"]
