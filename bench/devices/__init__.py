"""What this machine can do: checks, kernel timings, device profiles."""
