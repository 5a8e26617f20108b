"""The driver: workloads, the registry of experiments, the runner, results and the report."""
