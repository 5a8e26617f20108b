"""Three LLM serving systems (Astra, Orca, FasterTransformer) as policies of one engine."""

from engines import compiled

compiled.use()
