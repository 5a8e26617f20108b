"""The running batch on the device: one row per sequence, updated in place by what changed.

Rows are compact. The sequences that decode in a step are the first rows and those whose prompt the
step computes the last ones, because whoever joins is put at the end and whoever leaves is replaced
by the last. A decode step in which nothing changes therefore costs a few vector operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engines.core.batch import Batch
from engines.core.request import Sequence as Output
from engines.execution.kv_cache import KVCache, RowView
from engines.execution.transfer import send_all

_Number = TypeVar("_Number", bound=np.generic)


@dataclass(frozen=True)
class DeviceRows:
    """What the model reads of the rows, on its device.

    On a CPU these tensors are the host's arrays. `context_lens` is 0 in unused rows.
    """

    tables: Tensor  # int32 [capacity, table width]
    context_lens: Tensor  # int32 [capacity], slots in use from the row's first on
    start_offsets: Tensor  # int32 [capacity], how many of them are padding on the left
    last_tokens: Tensor  # int64 [capacity], the token to compute next


class Rows:
    """Arrays over the running sequences; see `DeviceRows` for those that the device has too.

    `outputs` [capacity, max_len] are the tokens chosen so far, `num_outputs` of at most
    `max_outputs`. A row that has all of them is complete: it is carried along (in a padded batch)
    but takes no more tokens. There is room for `capacity` sequences, from the start: the device's
    tensors stay the same.
    """

    def __init__(
        self, cache: KVCache, *, capacity: int, max_len: int, device: torch.device
    ) -> None:
        self.sequences: list[Output] = []
        self.num_sampled = 0  # rows with a temperature
        self._cache = cache
        self._apart = device.type != "cpu"  # whether the device's rows are copies of the host's
        self._row_of: dict[Output, int] = {}
        self._stale_rows: set[int] = set()  # of which the device has no copy yet
        self._stale_cells: list[int] = []  # places in `tables`, row by row

        def zeros(dtype: type[_Number], *width: int) -> NDArray[_Number]:
            return np.zeros((capacity, *width), dtype=dtype)

        self.tables = zeros(np.int32, cache.table_width)
        self.context_lens, self.start_offsets = zeros(np.int32), zeros(np.int32)
        self.outputs, self.num_outputs = zeros(np.int32, max_len), zeros(np.int32)
        self.max_outputs, self.logprobs = zeros(np.int32), zeros(np.float64)
        self.temperatures, self.top_ps = zeros(np.float32), zeros(np.float64)
        self.stops_early, self.keys = zeros(np.bool_), zeros(np.uint64)
        self._last_tokens = zeros(np.int64)  # on a CPU the device's, else unused
        shared = (self.tables, self.context_lens, self.start_offsets, self._last_tokens)
        self.device = DeviceRows(*(torch.from_numpy(a).to(device) for a in shared))
        self._arrays = (
            *shared, self.outputs, self.num_outputs, self.max_outputs, self.logprobs,
            self.temperatures, self.top_ps, self.stops_early, self.keys,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.sequences)

    def row_of(self, sequence: Output) -> int:
        """A running sequence's row."""
        return self._row_of[sequence]

    def apply(self, batch: Batch) -> None:
        """Follow the sequences that left, joined, forked or got a block."""
        for sequence in batch.left:
            self._remove(sequence)
        for sequence in batch.forked:
            if sequence in self._row_of:
                self._place(self._row_of[sequence], sequence)
        prompted = {prompt.group for prompt in batch.prompts}
        for sequence in batch.joined:
            self._add(sequence, batch.step, decodes=sequence.group not in prompted)
        for sequence in batch.changed:
            self._change_last(sequence)

    def advance(self, count: int) -> None:
        """Let the first `count` rows hold one more token, once the device knows of all changes."""
        self._upload()
        self.context_lens[:count] += 1
        if self._apart:
            self.device.context_lens[:count].add_(1)

    def view(self, count: int, longest: int) -> RowView:
        """The device's first `count` rows, of which no context is longer than `longest`."""
        device = self.device
        lens, starts = device.context_lens[:count], device.start_offsets[:count]
        return RowView(device.tables[:count], lens, longest, starts)

    def append(self, tokens: NDArray[np.int64]) -> NDArray[np.intp]:
        """Append a chosen token to every row that is not complete; returns these rows."""
        count = len(self)
        open_rows = np.flatnonzero(self.num_outputs[:count] < self.max_outputs[:count])
        self.outputs[open_rows, self.num_outputs[open_rows]] = tokens[open_rows]
        self.num_outputs[open_rows] += 1
        return open_rows

    def continue_beams(
        self, rows: Sequence[int], parents: Sequence[int], tokens: Sequence[int]
    ) -> None:
        """Let `rows[i]` continue what `rows[parents[i]]` chose before, with a new token.

        The rows must have appended a token in this step, which is replaced.
        """
        places = np.array(rows)
        last = self.num_outputs[places] - 1
        self.outputs[places] = self.outputs[places[list(parents)]]
        self.outputs[places, last] = tokens
        if self._apart:
            self._stale_rows.update(rows)
        else:
            self.device.last_tokens[list(rows)] = torch.tensor(tokens)

    def output_of(self, row: int) -> list[int]:
        """The tokens chosen for a row."""
        tokens: list[int] = self.outputs[row, : self.num_outputs[row]].tolist()
        return tokens

    def save(self, row: int) -> None:
        """Hand a row's tokens to its sequence."""
        sequence = self.sequences[row]
        sequence.output_token_ids = self.output_of(row)
        sequence.cumulative_logprob = float(self.logprobs[row])

    def _add(self, sequence: Output, step: int, *, decodes: bool) -> None:
        row = len(self.sequences)
        group = sequence.group
        request = group.request
        context_len = group.context_len(step)
        self.sequences.append(sequence)
        self._row_of[sequence] = row
        count = len(sequence.output_token_ids)
        self.outputs[row, :count] = sequence.output_token_ids
        self.num_outputs[row] = count
        if count:
            self._last_tokens[row] = sequence.output_token_ids[-1]
        self.max_outputs[row] = request.output_len
        self.logprobs[row] = sequence.cumulative_logprob
        self.temperatures[row] = 0.0 if request.sampling.beam else request.sampling.temperature
        self.num_sampled += int(self.temperatures[row] > 0)
        self.top_ps[row] = request.sampling.top_p
        self.stops_early[row] = not (request.sampling.ignore_eos or request.sampling.beam)
        self.keys[row] = (request.request_id << 8) + sequence.index
        # A prompt that holds more than its own tokens and the chosen ones is padded on the left.
        self.start_offsets[row] = context_len - request.prompt_len - count
        self.context_lens[row] = context_len - int(decodes)
        self._place(row, sequence)

    def _remove(self, sequence: Output) -> None:
        row, last = self._row_of.pop(sequence), len(self.sequences) - 1
        if not sequence.finished:
            self.save(row)
        self.num_sampled -= int(self.temperatures[row] > 0)
        if row != last:
            moved = self.sequences[last]
            self.sequences[row] = moved
            self._row_of[moved] = row
            for array in self._arrays:
                array[row] = array[last]
        self.sequences.pop()
        self.context_lens[last] = 0
        self._stale_rows |= {row, last}

    def _place(self, row: int, sequence: Output) -> None:
        self._cache.fill_table(self.tables[row], sequence)
        self._stale_rows.add(row)

    def _change_last(self, sequence: Output) -> None:
        row = self._row_of.get(sequence)
        if row is not None:
            last = sequence.num_blocks - 1
            self.tables[row, last] = sequence.blocks[-1]
            self._stale_cells.append(row * self._cache.table_width + last)

    def _upload(self) -> None:
        """Bring the device's copy up to date by one upload; on a CPU there is none."""
        stale, width = self._stale_rows, self._cache.table_width
        if self._apart and (stale or self._stale_cells):
            rows = np.array(sorted(stale), dtype=np.int64)
            cells = [cell for cell in self._stale_cells if cell // width not in stale]
            self._send(rows, np.array(cells, dtype=np.int64))
        stale.clear()
        self._stale_cells.clear()

    def _send(self, rows: NDArray[np.int64], cells: NDArray[np.int64]) -> None:
        """Copy whole rows and single entries of the tables."""
        device = self.device
        targets = (device.tables, device.context_lens, device.start_offsets, device.last_tokens)
        last = np.maximum(self.num_outputs[rows] - 1, 0)
        values = (
            *(self.tables[rows], self.context_lens[rows], self.start_offsets[rows]),
            self.outputs[rows, last].astype(np.int64),
        )
        arrays = (cells, self.tables.reshape(-1)[cells], rows, *values)
        places, blocks, index, *sent = send_all(arrays, device.tables.device)
        device.tables.view(-1).index_copy_(0, places, blocks)
        if len(rows):
            for target, new in zip(targets, sent, strict=True):
                target.index_copy_(0, index, new)
