"""Reads Hugging Face checkpoints: memory-mapped, slice by slice, no pickled objects executed.

A tensor's name in the file may begin with "model." (a causal LM) or not (its base model): names
here are without it.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor

from engines.core.errors import UserError

_PREFIX = "model."
_HEAD = "lm_head.weight"
_ROWS = 4096  # of a table that are looked at together
_SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
_FLOATING = {torch.float64, torch.float32, torch.float16, torch.bfloat16}
# Left in files by older versions of transformers; they follow from the configuration.
_DERIVED = re.compile(r"(.*\.rotary_emb\.inv_freq|decoder\.version)$")
_SHOWN = 3  # names of each kind that an error lists


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a checkpoint file; `read` returns a slice of it as a view of the mapped file."""

    file: Path
    shape: tuple[int, ...]
    read: Callable[[tuple[slice, ...]], Tensor]


class Checkpoint:
    """The tensors of a checkpoint directory; a `WeightSource`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tensors: dict[str, StoredTensor] = {}
        for file in _weight_files(directory):
            stored = _open_safetensors(file) if file.suffix == ".safetensors" else _open_bin(file)
            for full_name, tensor in stored.items():
                name = full_name.removeprefix(_PREFIX)
                if (first := self.tensors.setdefault(name, tensor)) is not tensor:
                    files = f"in {first.file.name} and in {file.name}"
                    raise UserError(f"{directory} holds {name} twice, {files}: remove one")

    def tie_head(self, embedding: str, dtype: torch.dtype) -> bool:
        """Whether the output layer is the embedding, where the configuration says that it is.

        As in transformers: the file decides. Two tensors that differ in `dtype` are two; one that
        is stored alone, whichever it is, serves as both.
        """
        head = self.tensors.pop(_HEAD, None)
        if head is None:
            return True
        table = self.tensors.setdefault(embedding, head)
        if table.shape == head.shape and all(
            torch.equal(table.read((rows,)).to(dtype), head.read((rows,)).to(dtype))
            for rows in (slice(i, i + _ROWS) for i in range(0, sum(table.shape[:1]), _ROWS))
        ):
            return True
        self.tensors[_HEAD] = head
        return False

    def verify(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """Raise one UserError that names every kind of disagreement with what a model needs."""
        missing = [name for name in expected if name not in self.tensors]
        unexpected = [
            name for name in self.tensors if name not in expected and not _DERIVED.match(name)
        ]
        misshapen = [
            f"{name} is {list(stored.shape)} in {stored.file.name}, expected {list(shape)}"
            for name, shape in expected.items()
            if (stored := self.tensors.get(name)) is not None and stored.shape != shape
        ]
        kinds = (("missing", missing), ("unexpected", unexpected), ("wrong shape", misshapen))
        problems = [f"{kind}: {_some(names)}" for kind, names in kinds if names]
        if problems:
            raise UserError(
                f"the weights in {self.directory} do not match its config.json: "
                + "; ".join(problems)
            )

    def fill(
        self, target: Tensor, name: str, shape: tuple[int, ...], start: tuple[int, ...]
    ) -> None:
        """Copy the slice into `target`; raises UserError for weights that are not floats."""
        stored = self.tensors[name]
        assert stored.shape == shape, f"{name} was not verified"
        if target.numel() == 0:
            return
        ranges = zip(start, target.shape, strict=True)
        part = stored.read(tuple(slice(first, first + length) for first, length in ranges))
        if part.dtype not in _FLOATING:
            raise UserError(
                f"{name} in {stored.file} has type {part.dtype}: quantized weights are not "
                "supported, use FP16, BF16 or FP32"
            )
        target.copy_(part)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _weight_files(directory: Path) -> list[Path]:
    """The files with the weights, in transformers' order: safetensors first, an index last."""
    for single in _SINGLE_FILES:
        if (directory / single).is_file():
            return [directory / single]
        index = directory / f"{single}.index.json"
        if index.is_file():
            return _indexed_files(index)
    raise UserError(
        f"{directory} holds no weights: expected {' or '.join(_SINGLE_FILES)}, or an index "
        "(.index.json) of their shards"
    )


def _indexed_files(index: Path) -> list[Path]:
    """The shards that an index names; raises UserError where one is absent or lies elsewhere."""
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        elsewhere = sorted(name for name in names if Path(name).name != name)
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index} is not an index of shards: {error!r:.200}") from None
    if elsewhere:
        raise UserError(f"{index} names {_some(elsewhere)}: shards must lie beside the index")
    files = [index.parent / name for name in sorted(names)]
    absent = [file.name for file in files if not os.path.isfile(file)]
    if absent:
        raise UserError(f"{index.parent} lacks {_some(absent)}, named in {index.name}")
    return files


def _open_safetensors(file: Path) -> dict[str, StoredTensor]:
    """Map a safetensors file; only its header is read."""
    from safetensors import SafetensorError, safe_open  # dummy weights need no such package

    try:
        handle: Any = safe_open(str(file), framework="pt", device="cpu")
        slices = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{file} is not a readable safetensors file: {error}: if it is damaged, fetch it again"
        ) from None
    return {
        name: StoredTensor(file, tuple(part.get_shape()), part.__getitem__)
        for name, part in slices.items()
    }


def _open_bin(file: Path) -> dict[str, StoredTensor]:
    """Map a torch.save file of plain tensors; the unpickler accepts nothing else."""
    try:
        is_mappable = is_zipfile(file)  # torch before 1.6 wrote another format
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd pickles, to report them to PyTorch
            tensors = torch.load(file, map_location="cpu", mmap=is_mappable, weights_only=True)
    except Exception as error:  # the unpickler checks few of its own steps
        # Its messages advise to load the file without these checks: they are not passed on.
        reason = f" ({error.strerror})" if isinstance(error, OSError) else ""
        raise UserError(
            f"{file} cannot be read as tensors that torch.save wrote{reason}: fetch it again if it "
            "is damaged, or save it as safetensors"
        ) from None
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise UserError(f"{file} must hold a dictionary of tensors, got {type(tensors).__name__}")
    return {
        name: StoredTensor(file, tuple(tensor.shape), tensor.__getitem__)
        for name, tensor in tensors.items()
    }
