"""Astra: a paged KV cache with copy-on-write sharing, and a preemptive scheduler."""
