"""FasterTransformer with request-level batching, as the paper serves it (section 6.1)."""
