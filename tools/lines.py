"""Count lines of source: `make lines` for this repository, `python -m tools.lines DIR` for another.

Lines that are empty or only a comment do not count, docstrings do. *distinct* counts equal lines of
a language once, so that copies of a file show. This is the script behind every number of lines
that the documents state.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.commands.output import print_table
from bench.machine import tracked_files
from engines.core.errors import UserError

ROOT = Path(__file__).parents[1]
COMMENTS = {".py": "#", ".sh": "#", ".toml": "#"} | dict.fromkeys(
    (".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp"), "//"
)


@dataclass
class Count:
    """Source files of one folder."""

    files: int = 0
    lines: int = 0
    distinct: set[tuple[str, str]] = field(default_factory=set)

    def add(self, suffix: str, lines: Sequence[str]) -> None:
        """Count one more file."""
        self.files += 1
        self.lines += len(lines)
        self.distinct |= {(suffix, line) for line in lines}


def count(root: Path, *, skip: Sequence[str] = ()) -> dict[str, Count]:
    """Count the sources that git tracks below `root`, by folder of the first level; "all" is last.

    `skip` names folders, by the start of their path, that are left out. Raises UserError where
    `root` is no git checkout.
    """
    found: dict[str, Count] = {}
    total = Count()
    for name in sorted(tracked_files(root)):
        path = Path(name)
        if path.suffix not in COMMENTS or any(path.is_relative_to(folder) for folder in skip):
            continue
        folder = path.parts[0] if len(path.parts) > 1 else "."
        lines = list(_code_lines(root / path, COMMENTS[path.suffix]))
        for each in (found.setdefault(folder, Count()), total):
            each.add(path.suffix, lines)
    return found | {"all": total}


def _code_lines(path: Path, comment: str) -> Iterator[str]:
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        text = line.strip()
        if text and not text.startswith(comment):
            yield text


def main(folder: str = str(ROOT), *skip: str) -> None:
    """Print the table."""
    rows = [
        (name, *(f"{n:,}" for n in (found.files, found.lines, len(found.distinct))))
        for name, found in count(Path(folder), skip=skip).items()
    ]
    print_table(("folder", "files", "lines", "distinct"), rows)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (UserError, OSError) as error:
        raise SystemExit(f"Error: {error}") from None
