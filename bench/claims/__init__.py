"""The paper's claims: measures, capacities, verdicts, reference results."""
