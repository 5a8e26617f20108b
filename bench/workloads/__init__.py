"""Workloads: request lengths, arrivals, conversations and traces, all reproducible by seed."""
