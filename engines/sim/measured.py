"""The price of a step by measured ones: a table of whole engine steps, interpolated."""

from __future__ import annotations

from collections.abc import Iterable
from math import fsum

from engines.core.errors import UserError
from engines.core.subclassing import mypyc_attr
from engines.sim.cost import StepPrice, Work
from engines.sim.interpolation import Curve, Surface, rising
from engines.sim.steps import StepRow, StepTable

SHORT = 16  # tokens: several prompts as short differ from one in their rows of logits


@mypyc_attr(allow_interpreted_subclasses=True)
class MeasuredCost(StepPrice):
    """Step times of one system on one device, from its measured steps.

    With D(n, c) the measured step of n sequences with c tokens of context, a step takes

    - D(n, c), bilinear between measured ones and not falling in c; less for tokens in blocks that
      several sequences read, each from the second time on by the same, since a processor may find
      them in its cache;
    - for prompts of t new tokens, X(n, t): a step with one prompt of t tokens beside n sequences,
      less D; plus R(n + p) - R(n + 1), what p rows of logits take more than one; plus
      (squares - S(t)) * q, since several prompts attend to less than one of their length, and one
      with a cached part to more; S is t^2, on the same lines between and beyond measured t as X;
    - what drawing at random adds for all sequences, and beam search for its groups;
    - what copied and swapped blocks add.

    `outside` counts the steps priced beyond the measured ones, by the slope at the border.
    """

    def __init__(self, table: StepTable, system: str, *, block_size: int, draws: bool) -> None:
        if system not in table.systems:
            raise UserError(
                f"the profile has no measured steps of {system}: measure them again with bench "
                "profile, or remove its [steps]"
            )
        self.outside = 0
        decodes = table.of(system, "decode")
        self._decode = _surface(
            [(r.sequences, r.context, r.seconds) for r in decodes if not r.cached], rises=True
        )
        self._shared_token_s = self._saved_by_sharing([row for row in decodes if row.cached])
        # A block of another size than the measured ones takes its share of the time.
        self._block_share = block_size / table.block_size
        self._copy, self._in, self._out = (
            _from_zero([(row.blocks, row.seconds) for row in table.of(system, kind)])
            for kind in ("copy", "swap_in", "swap_out")
        )
        prompts = table.of(system, "prompt")
        self._square_s = 0.0
        single = [row for row in prompts if row.prompts == 1 and not row.cached]
        sizes = sorted({row.tokens for row in single})
        self._single_squares = Curve(sizes, [float(size * size) for size in sizes])
        self._prompt = _surface([(r.sequences, r.tokens, self._beyond_decode(r)) for r in single])
        self._logits = self._logits_curve(prompts)  # of short prompts, whose squares are small
        self._square_s = self._seconds_a_square(prompts)
        self._logits = self._logits_curve(prompts)
        self._draw: Curve | None = None
        drawn = sorted((r.sequences, self._beyond_decode(r)) for r in table.of(system, "draw"))
        if draws and drawn:  # it may save something: sequences of a request share its prompt
            self._draw = Curve([0, *(n for n, _ in drawn)], [0.0, *(s for _, s in drawn)])
        self._beams: dict[int, Curve] = {}
        beams = table.of(system, "beam")
        for width in sorted({row.sequences // row.groups for row in beams}):
            points = [
                (r.groups, self._beyond_decode(r)) for r in beams if r.sequences == width * r.groups
            ]
            self._beams[width] = _from_zero(points)

    def decode_seconds(
        self,
        decodes: int,
        context_tokens: int,
        *,
        groups: int,
        beam_groups: int,
        shared_tokens: int = 0,
    ) -> float:
        """Duration of a step that only decodes."""
        if not self._decode.covers(decodes, context_tokens):
            self.outside += 1
        decode_s = self._decode_seconds(decodes, context_tokens, shared_tokens)
        return max(0.0, decode_s + self._choice_seconds(decodes, beam_groups))

    def seconds(self, work: Work) -> float:
        """Duration of any step."""
        return max(0.0, fsum(self.terms(work).values()))

    def terms(self, work: Work) -> dict[str, float]:
        """The parts of a step's duration in seconds: decode, prompt, choice, copy, swap."""
        decodes, tokens = work.decodes, work.prompt_tokens
        found = {"decode": 0.0, "prompt": 0.0, "choice": 0.0, "copy": 0.0, "swap": 0.0}
        covered = True
        if decodes:
            covered = self._decode.covers(decodes, work.context_tokens)
            found["decode"] = self._decode_seconds(decodes, work.context_tokens, work.shared_tokens)
        if tokens:
            covered = covered and self._prompt.covers(decodes, tokens)
            rows = self._logits.at(decodes + work.prompts) - self._logits.at(decodes + 1)
            squares = (work.prompt_squares - self._single_squares.at(tokens)) * self._square_s
            found["prompt"] = max(0.0, self._prompt.at(decodes, tokens) + rows + squares)
        if decodes or tokens:
            found["choice"] = self._choice_seconds(decodes + work.prompts, work.beam_groups)
        share = self._block_share
        if work.copied_blocks:
            found["copy"] = self._copy.at(share * work.copied_blocks)
        if work.blocks_in or work.blocks_out:
            in_s, out_s = self._in.at(share * work.blocks_in), self._out.at(share * work.blocks_out)
            found["swap"] = in_s + out_s
        if not covered:
            self.outside += 1
        return found

    def _decode_seconds(self, sequences: int, context: int, shared: int) -> float:
        return self._decode.at(sequences, context) - shared * self._shared_token_s

    def _saved_by_sharing(self, rows: Iterable[StepRow]) -> float:
        """Of a token that is read once more; the slope through the rows by least squares."""
        saved = squared = 0.0
        for row in rows:
            saved += row.cached * (self._decode.at(row.sequences, row.context) - row.seconds)
            squared += row.cached * row.cached
        return max(0.0, saved / squared) if squared else 0.0

    def _choice_seconds(self, sequences: int, beam_groups: int) -> float:
        """What choosing tokens takes beyond the likeliest one of each sequence."""
        added = 0.0
        if self._draw is not None:
            added += self._draw.at(sequences)
        if beam_groups and self._beams:
            width = sequences / beam_groups
            nearest = min(self._beams, key=lambda known: abs(known - width))
            added += self._beams[nearest].at(beam_groups)
        return added

    def _beyond_decode(self, row: StepRow) -> float:
        """What a step took beyond decoding, and beyond the blocks that it copied."""
        shared = 0 if row.prompts else row.cached
        decode_s = self._decode_seconds(row.sequences, row.context, shared) if row.sequences else 0
        return row.seconds - decode_s - self._copy.at(row.blocks)

    def _seconds_a_square(self, rows: Iterable[StepRow]) -> float:
        """The slope q of the time over squares, by least squares through the single prompts."""
        moved = squared = 0.0
        for row in rows:
            square = row.squares - self._single_squares.at(row.tokens)
            if row.cached or (row.prompts > 1 and row.tokens > SHORT * row.prompts):
                expected = self._prompt.at(row.sequences, row.tokens)
                expected += self._logits.at(row.prompts) - self._logits.at(1)
                moved += square * (self._beyond_decode(row) - expected)
                squared += square * square
        return max(0.0, moved / squared) if squared else 0.0

    def _logits_curve(self, rows: Iterable[StepRow]) -> Curve:
        points = {1: 0.0}
        for row in rows:
            if row.prompts > 1 and row.tokens <= SHORT * row.prompts and not row.sequences:
                expected = self._prompt.at(0, row.tokens)
                square = row.squares - self._single_squares.at(row.tokens)
                expected += square * self._square_s
                points[row.prompts] = self._beyond_decode(row) - expected
        counts = sorted(points)
        return Curve(counts, rising([points[count] for count in counts]))


def _surface(points: Iterable[tuple[int, int, float]], *, rises: bool = False) -> Surface:
    """A surface through points; for an x without one at some y, its own line goes on.

    With `rises` it rises in y. It need not in x: devices switch kernels between sizes, and the next
    larger batch may be the faster one.
    """
    by_x: dict[int, dict[int, float]] = {}
    for x, y, value in points:
        by_x.setdefault(x, {})[y] = value
    curves = {}
    for x, column in by_x.items():
        own = sorted(column)
        values = [column[y] for y in own]
        curves[x] = Curve(own, rising(values) if rises else values)
    xs = sorted(curves)
    ys = sorted({y for column in by_x.values() for y in column})
    return Surface(xs, ys, [[max(0.0, curves[x].at(y)) for y in ys] for x in xs])


def _from_zero(points: Iterable[tuple[int, float]]) -> Curve:
    """A rising curve from nothing for nothing."""
    found = {0: 0.0, **dict(points)}
    xs = sorted(found)
    return Curve(xs, rising([found[x] for x in xs]))
