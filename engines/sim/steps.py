"""Measured engine steps: the table in a device profile, and how it is read.

It is CSV, a header and a row for each step that was measured, as the engine runs it from one
step to the next. `kind` is one of KINDS, `system` whose memory layout it was: "astra" (blocks),
"orca" (chunks), "ft" (a padded rectangle). Counts that do not matter for a kind are 0:

- decode: `sequences` decode, with `context` tokens in all (the new ones included), of which
  `cached` are in blocks that another one reads too.
- prompt: `prompts` of `tokens` new tokens in all, of which each found `cached` ones in the cache,
  beside `sequences` that decode with `context` tokens.
- draw: as decode, by `groups` of equal size that draw their tokens at random.
- beam: as decode, by `groups` beam searches of equal width. Both may copy `blocks` meanwhile.
- copy, swap_in, swap_out: what copying or moving `blocks` adds to a step.

`seconds` is the mean of `samples`, of which outliers count less; `spread` half of their middle
half's width, in seconds.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields

from engines.core.config import System
from engines.core.errors import UserError

KINDS = ("decode", "prompt", "draw", "beam", "copy", "swap_in", "swap_out")
FAMILIES = tuple(dict.fromkeys(system.family for system in System))
LIGHT_ROWS, HEAVY_ROWS = 8, 64  # of the two steps by which a device's speed is known


@dataclass(frozen=True, kw_only=True)
class StepRow:
    """One measured step; see above."""

    kind: str
    system: str
    sequences: int = 0
    context: int = 0
    prompts: int = 0
    tokens: int = 0
    cached: int = 0
    groups: int = 0
    blocks: int = 0
    seconds: float
    samples: int = 1
    spread: float = 0.0

    @property
    def rows(self) -> int:
        """Tokens that the step computes."""
        return self.sequences + self.tokens

    @property
    def squares(self) -> float:
        """Sum over prompts, taken as equal, of total length^2 - cached length^2."""
        new = self.tokens / max(self.prompts, 1)
        return self.prompts * ((new + self.cached) ** 2 - self.cached**2)


@dataclass(frozen=True)
class Speed:
    """A device's speed at some time: seconds of a model's products for few and for many rows.

    See `engines.execution.pulse`. Both are 0 where they were not measured.
    """

    light_s: float = 0.0
    heavy_s: float = 0.0

    def seconds(self, rows: int) -> float:
        """Of as many rows, on the line through the two; beyond the second it does not go on.

        Fewer rows than the first's wait for memory even more, and compute less.
        Where both take about as long, as on a GPU, the line's slope is noise.
        """
        share = min(1.0, (rows - LIGHT_ROWS) / (HEAVY_ROWS - LIGHT_ROWS))
        return max(self.light_s / 2, self.light_s + share * (self.heavy_s - self.light_s))

    def slowness(self, usual: Speed, rows: int) -> float:
        """How many times longer than at the `usual` speed a step of so many rows takes."""
        return self.seconds(rows) / usual.seconds(rows) if usual.light_s else 1.0


@dataclass(frozen=True)
class StepTable:
    """Steps measured with one model in one type at one speed of the device.

    `waking` are rising idle times (s), each with how much longer the first step takes after it (s).
    The simulation of other models takes the formula.
    """

    model: str
    block_size: int
    rows: tuple[StepRow, ...]
    speed: Speed = Speed()
    waking: tuple[tuple[float, float], ...] = ()

    def late_s(self, idle_s: float) -> float:
        """How much longer a step takes after an idle time; linear between those measured."""
        before_s = late_s = 0.0
        for measured_s, measured_late_s in self.waking:
            if idle_s < measured_s:
                share = (idle_s - before_s) / (measured_s - before_s)
                return late_s + share * (measured_late_s - late_s)
            before_s, late_s = measured_s, measured_late_s
        return late_s

    def of(self, system: str, *kinds: str) -> list[StepRow]:
        """The rows of some kinds of one system."""
        return [row for row in self.rows if row.system == system and row.kind in kinds]

    @property
    def systems(self) -> list[str]:
        """Systems that can be priced: those with measured decode and prompt steps."""
        return [name for name in FAMILIES if self.of(name, "decode") and self.of(name, "prompt")]


_COLUMNS = [field.name for field in fields(StepRow)]
_TEXT, _REAL = ("kind", "system"), ("seconds", "spread")


def to_csv(rows: Iterable[StepRow]) -> str:
    """The rows as CSV; times to a tenth of a microsecond or better."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in rows:
        writer.writerow(f"{v:.7g}" if isinstance(v, float) else v for v in astuple(row))
    return text.getvalue()


def from_csv(content: str, source: str) -> tuple[StepRow, ...]:
    """Read what `to_csv` wrote; raises UserError naming the source, the line and the value."""
    try:
        lines = list(csv.reader(io.StringIO(content)))
    except csv.Error as error:
        raise UserError(f"{source} is not a CSV file: {error}") from None
    if not lines or lines[0] != _COLUMNS:
        raise UserError(f"{source} must start with the line {','.join(_COLUMNS)}")
    rows = tuple(_row(cells, f"{source}, line {n}") for n, cells in enumerate(lines[1:], 2))
    if not rows:
        raise UserError(f"{source} holds no steps: measure it again with bench profile")
    return rows


def _row(cells: Sequence[str], where: str) -> StepRow:
    if len(cells) != len(_COLUMNS):
        raise UserError(f"{where} has {len(cells)} values instead of {len(_COLUMNS)}")
    values = dict(zip(_COLUMNS, cells, strict=True))
    for name, known in (("kind", KINDS), ("system", FAMILIES)):
        if values[name] not in known:
            raise UserError(f"{where}: {name} must be {', '.join(known)}, got {values[name]!r}")
    found: dict[str, float] = {}
    for name, text in values.items():
        if name in _TEXT:
            continue
        try:
            number: float = float(text) if name in _REAL else int(text)
        except ValueError:
            number = math.nan
        if not 0 <= number < math.inf:
            raise UserError(f"{where}: {name} must be a number of at least 0, got {text!r}")
        found[name] = number
    return StepRow(**{name: values[name] for name in _TEXT}, **found)  # type: ignore[arg-type]
