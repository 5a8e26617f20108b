"""Where things lie, for tests at any depth."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"  # real data, where it is at hand
