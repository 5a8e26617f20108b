"""Three LLM serving systems (Astra, Orca, FasterTransformer) as policies of one engine."""

import os

from engines import compiled

# How often a thread of PyTorch's OpenMP looks for its next work before it sleeps; read when torch
# is first imported. Its own choice is a hundred times as much, which gains nothing on an idle
# machine and halves the speed where anything else needs a core.
SPINS = 3000

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
compiled.use()
