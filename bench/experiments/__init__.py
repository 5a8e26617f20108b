"""The registry: every experiment of the paper as data."""
