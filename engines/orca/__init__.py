"""Orca as the paper's baseline: contiguous reservations from a buddy allocator (section 6.1)."""
