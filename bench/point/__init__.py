"""One point of an experiment: its options, where it runs, serving it, its metrics."""
