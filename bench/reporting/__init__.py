"""From result tables to verdicts on the paper's claims, and their presentation."""
