"""Loads a model: weights of a Hugging Face checkpoint, or dummy weights of a known shape."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch

from engines.core.errors import UserError
from engines.core.models import ModelSpec, is_path
from engines.kernels.driver import require_cuda
from engines.kernels.library import load_kernels
from engines.models.builder import Builder, ShapeRecorder, WeightSource
from engines.models.checkpoint import Checkpoint
from engines.models.dummy import DummyWeights
from engines.models.interfaces import Communicator, Model
from engines.models.llama import LlamaModel
from engines.models.memory import require_memory, too_large
from engines.models.opt import OptModel
from engines.models.spec import ArchConfig, describe_model

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_MODELS: dict[str, type[OptModel] | type[LlamaModel]] = {"opt": OptModel, "llama": LlamaModel}


def load_model(
    name_or_path: str,
    *,
    dtype: torch.dtype,
    device: str,
    communicator: Communicator | None = None,
    seed: int = 0,
) -> Model:
    """Load this rank's slice of a model (of all of it without a communicator).

    A known name (`opt-13b`) gets dummy weights drawn from `seed`; anything else is a checkpoint
    directory (write `./opt-13b` for one of a known name). Raises UserError for bad input.
    """
    communicator = communicator or Communicator()
    place = torch.device(device)
    spec, arch = describe_model(name_or_path)
    spec = replace(spec, dtype_bytes=dtype.itemsize)
    _require_device(place, dtype)
    require_divisible(spec, communicator.size)
    source: WeightSource
    if not is_path(name_or_path):
        require_memory(spec, dtype, place, communicator.size)
        source = dummy_weights(spec, seed, place)
    else:
        checkpoint = Checkpoint(Path(name_or_path))
        expected = required_tensors(spec, arch)
        embedding = next(name for name in expected if name.endswith("embed_tokens.weight"))
        if spec.layout.tied and not checkpoint.tie_head(embedding, dtype):
            spec = replace(spec, layout_changes=(*spec.layout_changes, ("tied", False)))
            expected = required_tensors(spec, arch)
        checkpoint.verify(expected)
        require_memory(spec, dtype, place, communicator.size)
        source = checkpoint
    try:
        return build_model(spec, arch, source, communicator, dtype=dtype, device=place)
    except torch.OutOfMemoryError:  # another process took what was free a moment ago
        raise too_large(spec, dtype, place, communicator.size) from None


def build_model(
    spec: ModelSpec,
    arch: ArchConfig,
    source: WeightSource,
    communicator: Communicator,
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> Model:
    """Allocate this rank's slice of a model and fill it from a source."""
    builder = Builder(
        source, communicator, dtype=dtype, device=device, kernels=load_kernels(device.type)
    )
    return _MODELS[spec.family](builder, spec, arch)


def required_tensors(spec: ModelSpec, arch: ArchConfig) -> dict[str, tuple[int, ...]]:
    """Return every tensor that a checkpoint of this model holds, with its full shape."""
    recorder = ShapeRecorder()
    meta = torch.device("meta")
    build_model(spec, arch, recorder, Communicator(), dtype=torch.float32, device=meta)
    return recorder.shapes


def require_divisible(spec: ModelSpec, degree: int) -> None:
    """Raise UserError where a tensor-parallel degree cannot divide the model."""
    if degree not in (allowed := allowed_degrees(spec)):
        choices = ", ".join(map(str, allowed))
        raise UserError(
            f"tensor-parallel degree {degree} does not divide {spec.name} ({spec.num_heads} heads, "
            f"{spec.kv_heads} KV heads, FFN size {spec.ffn_size}): choose {choices}"
        )


def allowed_degrees(spec: ModelSpec) -> list[int]:
    """Degrees that divide heads and FFN, and divide the KV heads or are a multiple of them."""
    common = math.gcd(spec.num_heads, spec.ffn_size)
    return [
        degree
        for degree in range(1, common + 1)
        if common % degree == 0 and (spec.kv_heads % degree == 0 or degree % spec.kv_heads == 0)
    ]


def dummy_weights(spec: ModelSpec, seed: int, device: torch.device) -> DummyWeights:
    """Values for a model of any shape, made on `device`."""
    longest = max(spec.vocab_size, spec.ffn_size, spec.hidden_size, spec.max_positions + 2)
    return DummyWeights(seed, longest=longest, device=device)


def _require_device(device: torch.device, dtype: torch.dtype) -> None:
    """Raise UserError where the device is absent or lacks the type."""
    if device.type != "cuda":
        return
    require_cuda()
    if dtype == torch.bfloat16 and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError(f"{torch.cuda.get_device_name(device)} lacks bfloat16: use float16")
