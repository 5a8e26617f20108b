"""The executor that runs a model, on a CPU or a CUDA device.

All tokens of a step, prompts' and decodes', are computed in one forward pass. Inputs stay on the
device: a step uploads only what changed and waits for the device once, for the chosen tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engines.core.batch import Batch
from engines.core.config import EngineConfig
from engines.core.errors import UserError
from engines.core.executor import StepResult
from engines.core.request import Sequence as Output
from engines.core.request import Status
from engines.execution.attention import StepAttention
from engines.execution.beam_search import best_first
from engines.execution.graphs import DecodeGraphs, can_capture
from engines.execution.kv_cache import KVCache, RowView
from engines.execution.prompts import PromptBatch, PromptTokens, build_prompts
from engines.execution.rows import Rows
from engines.execution.running_beams import Outcome, RunningBeams
from engines.execution.sampling import log_probabilities, sample, uniform_numbers
from engines.execution.transfer import fetch, send
from engines.kernels.interface import Kernels
from engines.models.interfaces import Communicator, Model, SingleProcess
from engines.sim.slots import activation_bytes


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of an executor.

    `seed` is of random prompts and sampling. With `logprobs` the probabilities of chosen tokens are
    added up. `graphs` captures decode steps in CUDA graphs.
    """

    seed: int = 0
    logprobs: bool = False
    graphs: bool = True


@dataclass
class Timing:
    """Where the time of all steps went, in seconds; `model_s` is the forward passes."""

    steps: int = 0
    total_s: float = 0.0
    model_s: float = 0.0

    @property
    def host_us_per_step(self) -> float:
        """Mean microseconds of a step outside the model: batch, sampling, bookkeeping."""
        return 1e6 * (self.total_s - self.model_s) / max(self.steps, 1)


class TorchExecutor:
    """Runs batches of one system through a model and its KV cache.

    With a model's slice, each rank of `communicator` runs one, in lock step. Every rank gets the
    same logits and so makes the same choices; where equal numbers may give different ones (a GPU's
    running sums are not the same each time), rank 0's hold. `completed` are the sequences whose
    output the last step completed.
    """

    def __init__(
        self,
        model: Model,
        cache: KVCache,
        kernels: Kernels,
        config: EngineConfig,
        *,
        options: Options | None = None,
        communicator: Communicator | None = None,
    ) -> None:
        self.timing = Timing()
        self.completed: list[Output] = []
        self.rows = Rows(cache, max_len=config.max_model_len, device=model.device)
        self._options = options or Options()
        self._communicator = communicator or SingleProcess()
        self._model = model
        self._cache = cache
        self._kernels = kernels
        self._config = config
        self._max_len = config.max_model_len
        self._eos = np.array(model.arch.eos_token_ids, dtype=np.int64)
        self._prompts = PromptTokens(vocab_size=model.spec.vocab_size, seed=self._options.seed)
        self._beams = RunningBeams(self.rows, cache, self._communicator, self._eos)
        self._on_cuda = model.device.type == "cuda"
        self._graphs = (
            DecodeGraphs(self._decode, model.device)
            if self._options.graphs
            and not cache.pads_prompts
            and can_capture(model.device, kernels)
            else None
        )

    @torch.inference_mode()
    def execute(self, batch: Batch) -> StepResult:
        """Apply the batch's changes, run the model, choose tokens; waits for the device.

        Raises UserError where the device has too little memory for the step.
        """
        try:
            return self._execute(batch)
        except torch.OutOfMemoryError:
            raise self._out_of_memory(batch) from None

    def _execute(self, batch: Batch) -> StepResult:
        started = time.perf_counter()
        self.completed = []
        self._apply(batch)
        outcome = Outcome()
        if len(self.rows):
            logits, source, model_s = self._run(batch)
            self._choose(batch, logits, source, outcome)
            self.timing.model_s += model_s.seconds()
        elif self._on_cuda:
            torch.cuda.synchronize(self._model.device)
        elapsed_s = time.perf_counter() - started
        self.timing.steps += 1
        self.timing.total_s += elapsed_s
        return StepResult(elapsed_s, outcome.forks, outcome.stopped)

    def _out_of_memory(self, batch: Batch) -> UserError:
        """What to change: a cache smaller by what the step may need, or smaller steps."""
        spec, config = self._model.spec, self._config
        tokens = batch.num_decodes + sum(
            p.copies * (p.num_tokens - p.num_cached) for p in batch.prompts
        )
        needed = activation_bytes(spec, self._communicator.size, tokens)
        needed_slots = -(-needed * self._communicator.size // spec.kv_bytes_per_token)
        slots = config.num_slots - needed_slots
        fewer = f"--kv-slots to {slots} or fewer, or " if slots > 0 else ""
        return UserError(
            f"{self._model.device} ran out of memory in a step of {tokens} tokens, beside a KV "
            f"cache of {config.num_slots} slots: lower {fewer}--max-batched-tokens below {tokens}"
        )

    def _apply(self, batch: Batch) -> None:
        cache = self._cache
        cache.swap_out(batch.swap_out)
        cache.swap_in(batch.swap_in)
        cache.copy(batch.copies)
        for sequence in batch.left:
            if sequence.group.status is Status.FINISHED:
                self._beams.forget(sequence.group)
        self.rows.apply(batch)
        if cache.pads_prompts and batch.prompts:
            longest = max(p.group.request.output_len for p in batch.prompts)
            cache.begin_batch(len(self.rows), batch.prompts[0].num_tokens + longest)
        assert len(self.rows) == batch.num_seqs, "rows differ from the batch's sequences"

    def _run(self, batch: Batch) -> tuple[Tensor, NDArray[np.int64], _Stopwatch]:
        """Logits, which row of them each sequence's are, and the model's time."""
        count = batch.num_decodes
        source = np.arange(len(self.rows))
        watch = _Stopwatch(self._model.device)
        if not batch.prompts:
            if self._graphs is not None:
                self.rows.advance_host(count)
                watch.start()
                logits = self._graphs.run(self.rows, self._longest(count))
            else:
                self.rows.advance(count)
                watch.start()
                logits = self._decode(count, self._longest(count))
            watch.stop()
            return logits[:count], source, watch
        self.rows.advance(count)
        prompts = build_prompts(batch.prompts, self.rows, self._cache, self._prompts)
        watch.start()
        logits = self._mixed(count, prompts)
        watch.stop()
        source[count:] = count + prompts.logits_of
        return logits, source, watch

    def _longest(self, count: int) -> int:
        return int(self.rows.context_lens[:count].max())

    def _view(self, count: int, longest: int) -> RowView:
        device = self.rows.device
        return RowView(
            device.tables[:count],
            device.context_lens[:count],
            device.start_offsets[:count],
            longest,
        )

    def _decode(self, count: int, longest: int) -> Tensor:
        """Logits [count, vocab] of the first rows' next tokens; empty rows give any."""
        view = self._view(count, longest)
        positions = (view.context_lens - view.start_offsets - 1).clamp_(min=0)
        attention = StepAttention(
            self._cache, self._kernels, self._cache.slots(view), decodes=view, prompts=None
        )
        tokens = self.rows.device.last_tokens[:count]
        return self._model.logits(self._model.forward(tokens, positions, attention))

    def _mixed(self, count: int, prompts: PromptBatch) -> Tensor:
        """Logits [count + spans, vocab]: of the decoding rows, then of the prompts' last tokens."""
        tokens, positions, slots = prompts.token_ids, prompts.positions, prompts.slots
        last = prompts.last
        view = None
        if count:
            view = self._view(count, self._longest(count))
            decoding = (view.context_lens - view.start_offsets - 1).long()
            tokens = torch.cat((self.rows.device.last_tokens[:count], tokens))
            positions = torch.cat((decoding, positions))
            slots = torch.cat((self._cache.slots(view), slots))
            last = torch.cat((torch.arange(count, device=last.device), last + count))
        attention = StepAttention(self._cache, self._kernels, slots, decodes=view, prompts=prompts)
        hidden = self._model.forward(tokens, positions, attention)
        return self._model.logits(hidden[last])

    def _choose(
        self, batch: Batch, logits: Tensor, source: NDArray[np.int64], outcome: Outcome
    ) -> None:
        """Choose every sequence's token, on the device; then keep the books on the host."""
        rows, count = self.rows, len(self.rows)
        shared = len(logits) != count or bool(batch.prompts)
        index = send(source, logits.device) if shared else None
        tokens = logits.argmax(-1)
        if index is not None:
            tokens = tokens[index]
        if rows.num_sampled:
            self._sample(logits, source, tokens)
        rows.device.last_tokens[:count] = tokens
        logprobs = []
        if self._options.logprobs:
            per_row = logits if index is None else logits[index]
            logprobs = [log_probabilities(per_row, tokens)]
        ranked = self._beams.rank(batch, logits, source)
        beams = [tensor for each in ranked for tensor in (each.scores, each.places)]
        first, *rest = fetch(tokens, *logprobs, *beams)  # the step's one wait for the device
        chosen = first.numpy()
        appended = rows.append(chosen)
        if logprobs:
            rows.logprobs[appended] += rest.pop(0).numpy()[appended]
        for each in ranked:
            candidates = best_first(rest.pop(0), rest.pop(0), vocab_size=logits.shape[-1])
            for group, own in zip(each.groups, candidates, strict=True):
                self.completed += self._beams.advance(group, own, outcome)
        self._end_rows(appended, chosen, outcome)

    def _sample(self, logits: Tensor, source: NDArray[np.int64], tokens: Tensor) -> None:
        """Replace the greedy tokens of rows that have a temperature."""
        rows = self.rows
        drawing = np.flatnonzero(rows.temperatures[: len(rows)] > 0)
        uniforms = uniform_numbers(
            self._options.seed, rows.keys[drawing], rows.num_outputs[drawing]
        )

        device, top_ps = logits.device, rows.top_ps[drawing]
        drawn = sample(
            logits[send(source[drawing], device)],
            send(uniforms, device),
            temperatures=send(rows.temperatures[drawing].astype(np.float64), device),
            top_ps=send(top_ps, device) if (top_ps < 1).any() else None,
        )
        tokens[send(drawing, device)] = self._communicator.agree(drawn)

    def _end_rows(
        self, appended: NDArray[np.intp], chosen: NDArray[np.int64], outcome: Outcome
    ) -> None:
        """Hand over outputs that are complete; end those that chose an end-of-sequence token."""
        rows = self.rows
        stopping = appended[rows.stops_early[appended]]
        if len(stopping):
            stopping = stopping[np.isin(chosen[stopping], self._eos)]
            rows.max_outputs[stopping] = rows.num_outputs[stopping]
            outcome.stopped.extend(rows.sequences[row] for row in stopping.tolist())
        complete = rows.num_outputs[appended] == rows.max_outputs[appended]
        for row in appended[complete].tolist():
            if not rows.sequences[row].group.request.sampling.beam:
                rows.save(row)
                self.completed.append(rows.sequences[row])
        if self._cache.pads_prompts:  # the sequences of a padded batch end together
            count = len(rows)
            ended = (rows.num_outputs[:count] == rows.max_outputs[:count]).all()
            outcome.stopped = list(rows.sequences) if ended else []


class _Stopwatch:
    """Time of the model on its device."""

    def __init__(self, device: torch.device) -> None:
        self._events: list[torch.cuda.Event] = []
        if device.type == "cuda":
            event: Callable[..., torch.cuda.Event] = torch.cuda.Event
            self._events = [event(enable_timing=True) for _ in range(2)]
        self._started = self._stopped = 0.0

    def start(self) -> None:
        """The model's work begins."""
        if self._events:
            self._events[0].record()
        else:
            self._started = time.perf_counter()

    def stop(self) -> None:
        """The model's work is queued (CUDA) or done (CPU)."""
        if self._events:
            self._events[1].record()
        else:
            self._stopped = time.perf_counter()

    def seconds(self) -> float:
        """The time between, once the device is done."""
        if self._events:
            return float(self._events[0].elapsed_time(self._events[1])) / 1e3
        return self._stopped - self._started
