"""What all systems share: requests, the incremental batch, the engine's step, statistics."""
