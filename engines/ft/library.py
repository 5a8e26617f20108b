"""NVIDIA's FasterTransformer, where an image has it: a program of its own, spoken to in JSON lines.

The library lives in another Python than ours (see `containers/ft_worker.py`), so that a process
stands between them. Nothing here needs torch.
"""

from __future__ import annotations

import json
import subprocess
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from engines.core.errors import LostWorkerError, UserError
from engines.core.models import ModelSpec

PROGRAM = "ft-worker"
NEVER = -10000  # an end token that no model makes: every output has the length that was asked for
_START = 2  # OPT's
_TYPES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}


def model_arguments(model: ModelSpec, tensor_parallel: int, *, dtype: str) -> dict[str, Any]:
    """Return the arguments of the library's `ParallelGPT` for a model, as it runs OPT.

    Raises UserError for a model or type that the library does not compute.
    """
    if model.family != "opt" or (model.embedding_size or model.hidden_size) != model.hidden_size:
        raise UserError(
            f"FasterTransformer's library runs OPT models alone, and not opt-350m; got "
            f"{model.name}: use the image without FT_LIBRARY"
        )
    if dtype not in _TYPES:
        raise UserError(f"FasterTransformer's library has no type {dtype}: use float16")
    return {
        "head_num": model.num_heads,
        "size_per_head": model.head_size,
        "vocab_size": model.vocab_size,
        "start_id": _START,
        "end_id": NEVER,
        "layer_num": model.num_layers,
        "max_seq_len": model.max_positions,
        "tensor_para_size": model.kv_shards(tensor_parallel),  # all of them, in OPT
        "pipeline_para_size": 1,
        "inference_data_type": _TYPES[dtype],
        "inter_size": model.ffn_size,
        "layernorm_eps": 1e-5,
        "layernorm_type": "pre_layernorm",
        "activation_type": "Relu",
        "has_post_decoder_layernorm": True,
    }


@dataclass(frozen=True)
class BatchOrder:
    """A batch for the library: prompts padded on the right, with their true lengths.

    All rows are computed to `output_len` tokens. `beam_width` 1 samples, greedily with top_k 1.
    """

    start_ids: Sequence[Sequence[int]]
    start_lengths: Sequence[int]
    output_len: int
    beam_width: int = 1
    top_k: int = 1
    top_p: float = 1.0
    temperature: float = 1.0
    random_seed: int = 0


@dataclass(frozen=True)
class BatchAnswer:
    """Token ids [row][beam][padded prompt + output], and how long the library took, in seconds."""

    output_ids: list[list[list[int]]]
    elapsed_s: float


class Library:
    """The running program with one model in it; `commit` is the library's own."""

    def __init__(self, program: str, arguments: Mapping[str, Any]) -> None:
        """Start the program and give it a model; raises LostWorkerError if it ends at that."""
        degree = str(arguments["tensor_para_size"])
        self._process = subprocess.Popen(
            [program, degree], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._end = weakref.finalize(self, _end, self._process)
        self.commit: str = self._ask(arguments)["commit"]

    def run(self, order: BatchOrder) -> BatchAnswer:
        """Compute a batch to its end; raises LostWorkerError if the program ends."""
        return BatchAnswer(**self._ask(asdict(order)))

    def _ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None, "opened as a pipe"
        assert self._process.stdout is not None, "opened as a pipe"
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            status = self._process.wait()
            raise LostWorkerError(
                f"FasterTransformer's program ended with status {status}: see its output above"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the program, as happens with this object and with our process."""
        self._end()


def _end(process: subprocess.Popen[str]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()
    process.wait()
