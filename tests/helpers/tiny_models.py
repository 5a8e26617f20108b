"""Small random checkpoints made by transformers, and a token loop over our models."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import transformers
from dense_attention import DenseAttention

from engines.models.interfaces import Communicator, Model

VOCAB = 99  # odd: no degree divides it
PROMPT = [5, 17, 3, 88, 42, 9, 61]

_OPT = {
    "vocab_size": VOCAB, "hidden_size": 64, "num_hidden_layers": 3, "ffn_dim": 144,
    "num_attention_heads": 4, "max_position_embeddings": 64, "init_std": 0.2,
    "attn_implementation": "eager",
}  # fmt: skip
_LLAMA = {
    "vocab_size": VOCAB, "hidden_size": 64, "num_hidden_layers": 3, "intermediate_size": 144,
    "num_attention_heads": 4, "max_position_embeddings": 64, "initializer_range": 0.2,
    "attn_implementation": "eager",
}  # fmt: skip
_LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5000.0, "factor": 4.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 48,
}  # fmt: skip

KINDS: dict[str, Callable[[], transformers.PreTrainedConfig]] = {
    "opt": lambda: transformers.OPTConfig(**_OPT),
    "opt-post-norm": lambda: transformers.OPTConfig(
        **_OPT, do_layer_norm_before=False, word_embed_proj_dim=32
    ),
    "opt-no-bias": lambda: transformers.OPTConfig(**_OPT, enable_bias=False),
    "llama": lambda: transformers.LlamaConfig(**_LLAMA),
    "llama-gqa-tied": lambda: transformers.LlamaConfig(
        **_LLAMA, num_key_value_heads=2, tie_word_embeddings=True
    ),
    "llama-biased-llama3": lambda: transformers.LlamaConfig(
        **_LLAMA, num_key_value_heads=1, attention_bias=True, mlp_bias=True,
        rope_parameters=_LLAMA3,
    ),
    "llama-linear-rope": lambda: transformers.LlamaConfig(
        **_LLAMA, rope_parameters={"rope_type": "linear", "rope_theta": 100.0, "factor": 2.0}
    ),
}  # fmt: skip


def make_reference(kind: str) -> Any:
    """A random transformers model; norms and biases too, which transformers would leave at 1, 0."""
    torch.manual_seed(len(kind))
    model = transformers.AutoModelForCausalLM.from_config(KINDS[kind]())
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            center = 1.0 if name.endswith("norm.weight") else 0.0
            parameter.data.normal_(center, 0.1)
    return model.eval()


def save_bin(model: Any, directory: Path, *, num_shards: int) -> None:
    """Save as torch pickles, which transformers itself no longer writes."""
    model.config.save_pretrained(directory)
    state = model.state_dict()
    if num_shards == 1:
        torch.save(state, directory / "pytorch_model.bin")
        return
    weight_map = {name: f"pytorch_model-{i % num_shards}.bin" for i, name in enumerate(state)}
    for shard in set(weight_map.values()):
        part = {name: state[name].clone() for name in state if weight_map[name] == shard}
        torch.save(part, directory / shard)
    index = json.dumps({"metadata": {}, "weight_map": weight_map})
    (directory / "pytorch_model.bin.index.json").write_text(index, encoding="utf-8")


def reference_logits(model: Any, token_ids: list[int]) -> torch.Tensor:
    """Logits [len(token_ids), vocab] of transformers."""
    with torch.inference_mode():
        return model(torch.tensor([token_ids])).logits[0]


class Runner:
    """Feeds sequences to one of our models over the naive attention."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.attention = DenseAttention()
        self.lengths: dict[int, int] = {}

    def step(self, batch: dict[int, list[int]]) -> dict[int, torch.Tensor]:
        """Run each sequence's new tokens in one batch; returns their logits."""
        token_ids, positions = [], []
        for sequence, tokens in batch.items():
            start = self.lengths.get(sequence, 0)
            token_ids += tokens
            positions += range(start, start + len(tokens))
            self.lengths[sequence] = start + len(tokens)
        self.attention.begin([(sequence, len(tokens)) for sequence, tokens in batch.items()])
        with torch.inference_mode():
            hidden = self.model.forward(
                torch.tensor(token_ids), torch.tensor(positions), self.attention
            )
            logits = self.model.logits(hidden)
        lengths = [len(tokens) for tokens in batch.values()]
        return dict(zip(batch, logits.split(lengths), strict=True))

    def greedy(self, prompt: list[int], num_tokens: int) -> list[int]:
        """Continue a prompt token by token."""
        output: list[int] = []
        tokens = prompt
        for _ in range(num_tokens):
            output.append(int(self.step({0: tokens})[0][-1].argmax()))
            tokens = output[-1:]
        return output


class ThreadRank:
    """A communicator among threads of one process, in lock step."""

    def __init__(self, rank: int, slots: list[Any], barrier: threading.Barrier) -> None:
        self.rank = rank
        self.size = len(slots)
        self._slots = slots
        self._barrier = barrier

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        self._slots[self.rank] = tensor
        self._barrier.wait(timeout=60)
        gathered = torch.stack(self._slots)
        self._barrier.wait(timeout=60)  # nobody overwrites a slot that another still reads
        return gathered

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        return self.all_gather(tensor).sum(0)


def on_ranks(degree: int, work: Callable[[Communicator], Any]) -> list[Any]:
    """Run `work` on `degree` threads that are each other's ranks; returns their results."""
    slots: list[Any] = [None] * degree
    barrier = threading.Barrier(degree)
    with ThreadPoolExecutor(degree) as pool:
        futures = [pool.submit(work, ThreadRank(i, slots, barrier)) for i in range(degree)]
        return [future.result() for future in futures]
