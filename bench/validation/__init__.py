"""The simulation held against a running system: served traces beside their predictions."""
