"""Points as Ray tasks over a cluster; only `driver` and `remote` import Ray."""
