"""Executors: the simulation's price list, and models run for real."""
