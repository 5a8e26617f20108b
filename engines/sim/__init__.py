"""The simulation: device profiles, the price of a step, simulated beams, the executor."""
