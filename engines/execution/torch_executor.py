"""The executor that runs a model, on a CPU or a CUDA device.

All tokens of a step, prompts' and decodes', are computed in one forward pass. Inputs stay on the
device: a step uploads only what changed and waits for the device once, for the chosen tokens.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engines.core.batch import Batch
from engines.core.config import MOST_KV_SLOTS, EngineConfig
from engines.core.errors import UserError
from engines.core.executor import StepResult
from engines.core.request import Status
from engines.execution import varlen
from engines.execution.attention import StepAttention, prompt_attention
from engines.execution.beams import RunningBeams
from engines.execution.graphs import DecodeGraphs, can_capture
from engines.execution.kv_cache import CacheShape, create_cache
from engines.execution.prompts import PromptBatch, PromptTokens, build_prompts
from engines.execution.rows import Rows
from engines.execution.sampling import likeliest, log_probabilities, sample, uniform_numbers
from engines.execution.transfer import fetch, send_all
from engines.kernels.interface import Kernels
from engines.models.interfaces import Communicator, Model
from engines.sim.slots import activation_bytes


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of an executor.

    `seed` is of random prompts and sampling. With `logprobs` the probabilities of chosen tokens are
    added up.
    """

    seed: int = 0
    logprobs: bool = False


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
    """Runs batches of one system through a model and its KV cache, which it allocates.

    With a model's slice, each rank of `communicator` runs one, in lock step. Every rank gets the
    same logits and so makes the same choices; where equal numbers may give different ones (a GPU's
    running sums are not the same each time), rank 0's hold. `shape` may bring the cache's memory.
    """

    def __init__(
        self,
        model: Model,
        kernels: Kernels,
        config: EngineConfig,
        *,
        options: Options | None = None,
        communicator: Communicator | None = None,
        shape: CacheShape | None = None,
    ) -> None:
        cache = create_cache(shape or CacheShape.of(model), config, kernels)
        self.timing = Timing()
        # For all at once: a captured graph reads the rows' own tensors.
        self.rows = Rows(
            cache,
            capacity=min(config.max_num_seqs, MOST_KV_SLOTS),
            max_len=config.max_model_len,
            device=model.device,
        )
        self._options = options or Options()
        self._communicator = communicator or Communicator()
        self._model = model
        self._cache = cache
        self._kernels = kernels
        self._config = config
        self._eos = np.array(model.arch.eos_token_ids, dtype=np.int64)
        self._prompts = PromptTokens(vocab_size=model.spec.vocab_size, seed=self._options.seed)
        eos = frozenset(model.arch.eos_token_ids)
        self._beams = RunningBeams(self.rows, cache, self._communicator, eos)
        # cuDNN's attention plans every exact shape anew, which takes tens of milliseconds or more.
        torch.backends.cuda.enable_cudnn_sdp(False)
        self._varlen = varlen.choose(model.device, model.dtype, model.spec.head_size)
        self._graphs: DecodeGraphs | None = None
        if can_capture(model.device, kernels):
            self._graphs = DecodeGraphs(self._decode, cache, max_rows=config.max_num_seqs)

    @torch.inference_mode()
    def execute(self, batch: Batch) -> StepResult:
        """Apply the batch's changes, run the model, choose tokens; waits for the device.

        Raises UserError where the device has too little memory for the step.
        """
        started = time.perf_counter()
        result = StepResult(0.0, [], [])
        try:
            self._apply(batch)
            if len(self.rows):
                logits, watch = self._run(batch)
                self._choose(batch, logits, result)
                self.timing.model_s += watch.seconds()
            elif self._model.device.type == "cuda":
                torch.cuda.synchronize(self._model.device)
        except torch.OutOfMemoryError:
            raise self._out_of_memory(batch) from None
        result.elapsed_s = time.perf_counter() - started
        self.timing.steps += 1
        self.timing.total_s += result.elapsed_s
        return result

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
        if batch.prompts:
            cache.begin_batch(batch)
        self.rows.apply(batch)
        assert len(self.rows) == batch.num_seqs, "rows differ from the batch's sequences"

    def _run(self, batch: Batch) -> tuple[Tensor, Stopwatch]:
        """Logits of each row, and the model's time."""
        count, rows = batch.num_decodes, self.rows
        rows.advance(count)
        longest = int(rows.context_lens[:count].max(initial=0))
        prompts = None
        if batch.prompts:
            prompts = build_prompts(batch.prompts, rows, self._cache, self._prompts)
        watch = Stopwatch(self._model.device)
        if prompts is None and self._graphs is not None:
            logits = self._graphs.run(count, longest)[:count]
        else:
            logits = self._forward(count, longest, prompts)
        watch.stop()
        return logits, watch

    def _decode(self, count: int, longest: int) -> Tensor:
        return self._forward(count, longest, None)

    def _forward(self, count: int, longest: int, prompts: PromptBatch | None) -> Tensor:
        """Logits of the first `count` rows' next tokens, then of the tokens that follow prompts.

        [rows, vocab]; empty rows, which graphs have, give any.
        """
        view = self.rows.view(count, longest)
        tokens, slots = self.rows.device.last_tokens[:count], self._cache.slots(view)
        starts = self.rows.device.start_offsets[:count]
        positions = (view.context_lens - starts - 1).clamp_(min=0)
        last: Tensor | slice = slice(None)
        attend_prompts = None
        if prompts is not None:
            tokens = torch.cat((tokens, prompts.token_ids))
            positions = torch.cat((positions, prompts.positions))
            slots = torch.cat((slots, prompts.slots))
            decodes = torch.arange(count, device=slots.device)
            last = torch.cat((decodes, prompts.last + count))
            attend_prompts = prompt_attention(prompts, self._cache, self._kernels, self._varlen)
        attention = StepAttention(self._cache, slots, view, attend_prompts)
        hidden = self._model.forward(tokens, positions, attention)
        return self._model.logits(hidden[last])

    def _choose(self, batch: Batch, logits: Tensor, result: StepResult) -> None:
        """Choose every sequence's token, on the device; then keep the books on the host."""
        rows, count = self.rows, len(self.rows)
        tokens = likeliest(logits)
        if rows.num_sampled:
            self._sample(logits, tokens)
        rows.device.last_tokens[:count] = tokens
        logprobs = [log_probabilities(logits, tokens)] if self._options.logprobs else []
        ranked = self._beams.rank(batch, logits)
        beams = [tensor for each in ranked for tensor in (each.scores, each.places)]
        first, *rest = fetch(tokens, *logprobs, *beams)  # the step's one wait for the device
        chosen = first.numpy()
        appended = rows.append(chosen)
        if logprobs:
            rows.logprobs[appended] += rest.pop(0).numpy()[appended]
        for each in ranked:
            on_host = each._replace(scores=rest.pop(0), places=rest.pop(0))
            self._beams.advance(on_host, logits.shape[-1], result)
        self._end_rows(appended, chosen, result)

    def _sample(self, logits: Tensor, tokens: Tensor) -> None:
        """Replace the greedy tokens of rows that have a temperature."""
        rows, device = self.rows, logits.device
        drawing = np.flatnonzero(rows.temperatures[: len(rows)] > 0)
        uniforms = uniform_numbers(
            self._options.seed, rows.keys[drawing], rows.num_outputs[drawing]
        )
        top_ps = rows.top_ps[drawing]
        temperatures = rows.temperatures[drawing].astype(np.float64)
        places, uniform, heats, tops = send_all((drawing, uniforms, temperatures, top_ps), device)
        drawn = sample(
            logits,
            places,
            uniform,
            temperatures=heats,
            top_ps=tops if (top_ps < 1).any() else None,
        )
        tokens[places] = self._communicator.agree(drawn)

    def _end_rows(
        self, appended: NDArray[np.intp], chosen: NDArray[np.int64], result: StepResult
    ) -> None:
        """Hand over outputs that are complete; end those that chose an end-of-sequence token."""
        rows = self.rows
        stopping = appended[rows.stops_early[appended]]
        if len(stopping):
            stopping = stopping[np.isin(chosen[stopping], self._eos)]
            rows.max_outputs[stopping] = rows.num_outputs[stopping]
            result.stopped.extend(rows.sequences[row] for row in stopping.tolist())
        complete = rows.num_outputs[appended] == rows.max_outputs[appended]
        for row in appended[complete].tolist():
            if not rows.sequences[row].group.request.sampling.beam:
                rows.save(row)
        if self._cache.pads_prompts:  # the sequences of a padded batch end together
            count = len(rows)
            ended = (rows.num_outputs[:count] == rows.max_outputs[:count]).all()
            result.stopped[:] = rows.sequences if ended else []


class Stopwatch:
    """Time of the model on its device, from the start of the watch."""

    def __init__(self, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self._times = [self._now()]

    def stop(self) -> None:
        """The model's work is queued (CUDA) or done (CPU)."""
        self._times.append(self._now())

    def seconds(self) -> float:
        """The time between, once the device is done."""
        start, stop = self._times
        return float(start.elapsed_time(stop)) / 1e3 if self._on_cuda else stop - start

    def _now(self) -> Any:
        if not self._on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event
