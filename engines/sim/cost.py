"""The price of a step: a sum of terms, each a quantity of work over a rate of the device."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from engines.core.models import ModelSpec
from engines.core.subclassing import mypyc_attr
from engines.sim.profile import DeviceProfile


@dataclass(frozen=True, slots=True)
class Work:
    """What a step computes and moves.

    `groups` counts the running groups, `beam_groups` those of them that use beam search. Of the
    `context_tokens` of all decoding sequences, `shared_tokens` are in blocks that another one reads
    too. `prompt_squares` is the sum over prompts of total length^2 - cached length^2.
    `copied_tokens` touch `copied_blocks`; `blocks_in` come back from the CPU pool and `blocks_out`
    go there.
    """

    prompts: int = 0
    prompt_tokens: int = 0
    decodes: int = 0
    groups: int = 0
    beam_groups: int = 0
    context_tokens: int = 0
    shared_tokens: int = 0
    prompt_squares: int = 0
    copied_tokens: int = 0
    copied_blocks: int = 0
    blocks_in: int = 0
    blocks_out: int = 0

    @property
    def rows(self) -> int:
        """Tokens that are computed."""
        return self.decodes + self.prompt_tokens


@mypyc_attr(allow_interpreted_subclasses=True)
class StepPrice(ABC):
    """What a step takes: by a formula (`StepCost`) or by measured steps (`MeasuredCost`).

    `outside` counts the steps priced beyond what was measured.
    """

    outside: int

    @abstractmethod
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

    @abstractmethod
    def seconds(self, work: Work) -> float:
        """Duration of any step."""

    def fork_seconds(self, context_tokens: int, output_tokens: int) -> float:
        """What replacing beams adds, by the tokens and the output tokens of all that are copied."""
        return 0.0


@mypyc_attr(allow_interpreted_subclasses=True)
class StepCost(StepPrice):
    """Step times of a model on `tensor_parallel` devices, with all constants precomputed.

    With P parameters, L layers, H hidden size, A and K widths of all heads' queries and keys, s
    bytes per element, T = prompt tokens + decoding sequences (in the paper's models H = A = K):

    - linear = sqrt((s*P / (tp*weight_bandwidth))^2 + (2*P*T / (tp*flops))^2): where reading and
      computing take about as long, neither hides the other whole (docs/simulator.md)
    - decode = context tokens * 2*L*K*s / (shards*kv_bandwidth); shards = tp, or at most the
      number of KV heads
    - prefill = sum of 2*L*A*len^2 / (tp*attention_flops)
    - allreduce = 2*L*(link_latency + 2*(tp-1)/tp * T*H*s / link_bandwidth), 0 if tp is 1
    - copies = 2 * copied bytes / copy_bandwidth
    - swap = swapped bytes / pcie_bandwidth + transfers * pcie_latency, a transfer being a block of
      one layer's keys or values; bytes are per device
    - host = step_overhead, and with `python_host` worker_overhead for each device and
      worker_group_overhead for each device and group, group_overhead and draw_overhead for each
      group, beam_overhead for each group with beam search, sequence_overhead for each sequence;
      for each beam that is replaced, fork_token_overhead for each token of the one that it
      continues and fork_output_overhead for each of its output
    """

    def __init__(
        self,
        model: ModelSpec,
        profile: DeviceProfile,
        *,
        tensor_parallel: int,
        block_size: int,
        python_host: bool,
    ) -> None:
        self.outside = 0
        shards = model.kv_shards(tensor_parallel)
        tp, layers, hidden = tensor_parallel, model.num_layers, model.hidden_size
        parameters, size = model.num_parameters, model.dtype_bytes
        efficiency = profile.kv_block_efficiency.get(block_size, 1.0)
        self._read_weights_s = size * parameters / (tp * profile.weight_bandwidth)
        self._token_flops_s = 2 * parameters / (tp * profile.flops)
        self._context_s = model.kv_bytes_per_token / (shards * profile.kv_bandwidth * efficiency)
        self._square_s = 2 * layers * model.attention_size / (tp * profile.attention_flops)
        self._fixed_s = profile.step_overhead_s
        self._group_s = self._beam_s = self._sequence_s = 0.0
        self._fork_token_s = self._fork_output_s = 0.0
        self._reduce_token_s = 0.0
        if python_host:
            self._fixed_s += tp * profile.worker_overhead_s
            self._group_s = profile.group_overhead_s + profile.draw_overhead_s
            self._group_s += tp * profile.worker_group_overhead_s
            self._fork_token_s = profile.fork_token_overhead_s
            self._fork_output_s = profile.fork_output_overhead_s
            self._beam_s = profile.beam_overhead_s
            self._sequence_s = profile.sequence_overhead_s
        if tp > 1:
            self._fixed_s += 2 * layers * profile.link_latency_s
            reduced = 2 * (tp - 1) / tp * hidden * size / profile.link_bandwidth
            self._reduce_token_s = 2 * layers * reduced
        self._token_bytes = model.kv_bytes_per_token / shards
        self._block_bytes = block_size * self._token_bytes
        self._transfers_per_block = 2 * layers
        self._copy_byte_s = 2 / profile.copy_bandwidth
        self._swap_byte_s = 1 / profile.pcie_bandwidth
        self._transfer_s = profile.pcie_latency_s

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
        host = decodes * self._sequence_s + groups * self._group_s + beam_groups * self._beam_s
        return host + self._device_seconds(decodes, context_tokens)

    def _device_seconds(self, tokens: int, context_tokens: int) -> float:
        linear = math.sqrt((tokens * self._token_flops_s) ** 2 + self._read_weights_s**2)
        return (
            self._fixed_s
            + linear
            + tokens * self._reduce_token_s
            + context_tokens * self._context_s
        )

    def seconds(self, work: Work) -> float:
        """Duration of any step."""
        tokens = work.prompt_tokens + work.decodes
        swapped = work.blocks_in + work.blocks_out
        return (
            self._device_seconds(tokens, work.context_tokens)
            + (work.decodes + work.prompts) * self._sequence_s
            + work.groups * self._group_s
            + work.beam_groups * self._beam_s
            + work.prompt_squares * self._square_s
            + work.copied_tokens * self._token_bytes * self._copy_byte_s
            + swapped * self._block_bytes * self._swap_byte_s
            + swapped * self._transfers_per_block * self._transfer_s
        )

    def fork_seconds(self, context_tokens: int, output_tokens: int) -> float:
        """What the host copies where beams are replaced."""
        return context_tokens * self._fork_token_s + output_tokens * self._fork_output_s
