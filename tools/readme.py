"""Write the registry's table into README.md: `python tools/readme.py`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def main() -> None:
    """Replace what stands between the two marks."""
    bench = Path(sys.executable).with_name("bench")
    done = subprocess.run([bench, "figures", "--markdown"], capture_output=True, check=True)
    table = done.stdout.decode()
    text = README.read_text(encoding="utf-8")
    pattern = r"(<!-- figures:[^\n]*-->\n).*?(<!-- end of figures -->)"
    README.write_text(
        re.sub(pattern, lambda m: f"{m[1]}\n{table}\n{m[2]}", text, flags=re.S), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
