"""Results as files: the store of points, measurements of kernels, provenance."""
