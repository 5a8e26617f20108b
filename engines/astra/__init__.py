"""Astra: a paged KV cache with copy-on-write sharing, and preemptive scheduling over it."""
