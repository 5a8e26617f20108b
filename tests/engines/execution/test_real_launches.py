"""What a decode step launches on a GPU: counted on tensors without memory, as torch calls it."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from engines.core.config import EngineConfig, System
from engines.core.models import ModelSpec
from engines.execution.attention import StepAttention
from engines.execution.kv_cache import CacheShape, RowView, create_cache
from engines.kernels.interface import OPERATIONS, Kernels
from engines.models.builder import Builder, ShapeRecorder
from engines.models.interfaces import Communicator
from engines.models.llama import LlamaModel
from engines.models.opt import OptModel
from engines.models.spec import arch_from_spec

META = torch.device("meta")
LAYERS = 3
OPT_LAYER = [
    *("add_norm", "linear", "write_kv", "paged_attention", "linear"),
    *("add_norm", "_addmm_activation", "linear"),
]
LLAMA_LAYER = [
    *("add_norm", "linear", "rotate", "write_kv", "paged_attention", "linear"),
    *("add_norm", "linear", "gate", "linear"),
]
MAKES_NO_LAUNCH = {"empty", "empty_like", "new_empty"}


class Launches(TorchDispatchMode):
    """Names of the operations that run on the device, in order; views do not."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if not func.is_view and name not in MAKES_NO_LAUNCH:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def forward_launches(family: str) -> list[str]:
    """Of a forward pass of five decodes, by our kernels and by torch."""
    launches = Launches()

    def note(name: str, *_: object) -> None:
        launches.names.append(name)

    kernels = Kernels({name: partial(note, name) for name in OPERATIONS})
    spec = ModelSpec("tiny", family, LAYERS, 2, 128, 160, 97, 96)
    builder = Builder(
        ShapeRecorder(), Communicator(), dtype=torch.float16, device=META, kernels=kernels
    )
    model = (OptModel if family == "opt" else LlamaModel)(builder, spec, arch_from_spec(spec))
    cache = create_cache(
        CacheShape(LAYERS, 2, 64, torch.float16, META),
        EngineConfig(system=System.ASTRA, num_slots=160, max_model_len=96),
        kernels,
    )
    ints = torch.empty(5, dtype=torch.int32, device=META)
    rows = RowView(torch.empty(5, 6, dtype=torch.int32, device=META), ints, 30)
    attention = StepAttention(cache, ints.long(), rows, None)
    with launches, torch.inference_mode():
        model.forward(ints, ints, attention)
    return launches.names


def test_a_layer_of_opt_is_eight_launches() -> None:
    names = forward_launches("opt")
    assert names == ["embedding", "embedding", *LAYERS * OPT_LAYER, "add_"]


def test_a_layer_of_llama_is_ten_launches() -> None:
    names = forward_launches("llama")
    first = ["embedding", "index_select", "index_select", "rms_norm"]
    assert names == [*first, *(LAYERS * LLAMA_LAYER)[1:], "add_"]
