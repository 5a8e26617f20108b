"""What the original's Python costs at a fork and at a step's hand-over, imitated on this machine.

The original (`sosp-ae-39/sosp-ae-astra`, commit 3180d2f) deep-copies a beam's logical blocks and
its tokens' log-probabilities for each beam that continues it, and Ray pickles a step's inputs once
for each worker. This script builds structures of that shape and times both, for
`engines/sim/hosts/paper.toml`:

    python -m benchmarks.original_host
"""

from __future__ import annotations

import copy
import pickle
import statistics
import time
from collections.abc import Callable
from typing import Any

BLOCK_SIZE = 16
ROUNDS = 15


class LogicalBlock:
    """A block's number, its tokens and how many they are."""

    def __init__(self, number: int) -> None:
        self.block_number = number
        self.block_size = BLOCK_SIZE
        self.token_ids = list(range(1000, 1000 + BLOCK_SIZE))
        self.num_tokens = BLOCK_SIZE


class Settings:
    """A request's sampling parameters."""

    def __init__(self) -> None:
        self.n, self.temperature, self.top_p, self.use_beam_search = 1, 1.0, 1.0, False
        self.stop_token_ids: set[int] = set()
        self.max_num_steps, self.num_logprobs, self.context_window_size = 338, 0, None


class GroupInputs:
    """What a worker is sent of one request in a step that decodes."""

    def __init__(self, number: int, blocks: int, sequences: int = 1) -> None:
        ids = range(sequences * number, sequences * (number + 1))
        self.group_id, self.is_prompt, self.context_len = number, False, blocks * BLOCK_SIZE
        self.input_tokens = {i: [1000 + i] for i in ids}
        self.seq_logprobs = {i: -1.5 * i for i in ids}
        self.sampling_params = Settings()
        self.block_tables = {i: list(range(i, i + blocks)) for i in ids}


def seconds(work: Callable[[], Any]) -> float:
    """The median time of a call."""
    work()
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def fork_block_s() -> float:
    """Seconds to deep-copy one logical block, in a list of forty."""
    blocks = [LogicalBlock(number) for number in range(40)]
    return seconds(lambda: copy.deepcopy(blocks)) / len(blocks)


def fork_token_s() -> float:
    """Seconds to deep-copy one token's log-probability, in a list of four hundred."""
    logprobs = [{token: -0.5 * token} for token in range(400)]
    return seconds(lambda: copy.deepcopy(logprobs)) / len(logprobs)


def pickle_request_s() -> float:
    """Seconds to pickle one request of a step's inputs as Ray does (plain pickle without Ray)."""
    try:
        from ray import cloudpickle as pickler
    except ModuleNotFoundError:
        pickler = pickle
    inputs = [GroupInputs(number, blocks=25) for number in range(118)]
    return seconds(lambda: pickler.dumps(inputs, protocol=5)) / len(inputs)


def main() -> None:
    """Print the three prices and what they come to."""
    block_s, token_s, request_s = fork_block_s(), fork_token_s(), pickle_request_s()
    print(f"fork, a logical block of {BLOCK_SIZE}: {1e6 * block_s:.1f} us")
    print(f"fork, an output token: {1e6 * token_s:.2f} us")
    print(f"pickled request, a worker: {1e6 * request_s:.1f} us")
    for name, prompt, output in (("Alpaca", 19, 58), ("ShareGPT", 161, 338)):
        for share in (0.5, 1.0):
            tokens = round(share * output)
            blocks = -(-(prompt + tokens) // BLOCK_SIZE)
            print(
                f"a fork of {name}'s mean request after {tokens} tokens: "
                f"{1e3 * (blocks * block_s + tokens * token_s):.2f} ms"
            )


if __name__ == "__main__":
    main()
