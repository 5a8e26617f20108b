"""Many points into one store: on this machine, in containers, on a Ray cluster."""
