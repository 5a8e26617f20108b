"""Dummy weights are seeded, finite in FP16, and fit any shape; impossible loads are refused."""

from __future__ import annotations

import pytest
import torch
from tiny_models import PROMPT, Runner

from engines.core.config import GIB
from engines.core.errors import UserError
from engines.core.models import MODELS, ModelSpec
from engines.models import memory
from engines.models.load import load_model, required_tensors
from engines.models.spec import FAMILIES, arch_from_spec


def load(name, **settings):
    return load_model(name, **{"dtype": torch.float32, "device": "cpu", **settings})


@pytest.fixture
def deep_llama(monkeypatch):
    spec = ModelSpec("llama-deep", "llama", 32, 4, 256, 688, 1000, max_positions=64)
    monkeypatch.setitem(MODELS, spec.name, spec)
    return spec


@pytest.mark.parametrize("name", ["opt-125m", "llama-deep"])
def test_half_precision_stays_finite(deep_llama, name):
    logits = Runner(load(name, dtype=torch.float16)).step({0: PROMPT * 4})[0].float()
    assert logits.isfinite().all()
    assert 0.1 < logits.std() < 100
    assert logits.argmax(dim=-1).unique().numel() > 1


def test_seeds(monkeypatch):
    monkeypatch.setitem(MODELS, "opt-toy", ModelSpec("opt-toy", "opt", 2, 4, 64, 256, 100))
    first, same, other = (
        Runner(load("opt-toy", seed=seed)).step({0: PROMPT})[0] for seed in (1, 1, 2)
    )
    assert torch.equal(first, same)
    assert not torch.allclose(first, other, atol=0.1)


@pytest.mark.parametrize("name", sorted(n for n in MODELS if MODELS[n].family in FAMILIES))
def test_shapes_add_up_to_the_known_number_of_parameters(name):
    spec = MODELS[name]
    shapes = required_tensors(spec, arch_from_spec(spec))
    total = sum(torch.Size(shape).numel() for shape in shapes.values())
    assert total == pytest.approx(spec.num_parameters, rel=1e-4)


@pytest.mark.parametrize("name", ["opt-175b", "opt-350m", "llama-13b"])
def test_a_forward_pass_never_looks_at_values(name):
    """On the meta device nothing has a value: a wait for the device would raise."""

    class Shapes:
        def attend(self, layer, q, k, v):
            return torch.empty(q.shape, dtype=q.dtype, device=q.device)

    model = load(name, dtype=torch.float16, device="meta")
    tokens = torch.zeros(96, dtype=torch.int64, device="meta")
    hidden = model.forward(tokens, tokens, Shapes())
    assert model.logits(hidden[:3]).shape == (3, model.spec.vocab_size)
    assert model.weight_bytes == pytest.approx(2 * model.spec.num_parameters, rel=1e-4)


def test_a_model_larger_than_the_memory(monkeypatch):
    monkeypatch.setattr(memory, "free_memory_bytes", lambda device: 30 * GIB)
    with pytest.raises(UserError, match=r"opt-13b in float32 needs 47\.\d GiB .*16-bit.*opt-6\.7b"):
        load("opt-13b")
    assert memory.require_memory(MODELS["opt-13b"], torch.float16, torch.device("cpu"), 1) is None
    with pytest.raises(UserError, match=r"opt-66b in float16 .* higher --tensor-parallel or a sma"):
        load("opt-66b", dtype=torch.float16)


def test_free_memory_of_this_machine():
    free = memory.free_memory_bytes(torch.device("cpu"))
    assert free is None or free > 1 << 20


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_cuda_device():
    with pytest.raises(UserError, match="no CUDA device here: "):
        load("opt-125m", device="cuda")
