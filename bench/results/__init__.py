"""Results as files: the store of points, measurements, atomic writes, provenance."""
