"""Packed weights give the plain product, or are not used."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from engines.models import packed
from engines.models.builder import Builder
from engines.models.dummy import DummyWeights
from engines.models.interfaces import Communicator
from engines.models.linear import Linear, Share
from engines.models.packed import PackedLinear, Packer

CPU = torch.device("cpu")
needs_onednn = pytest.mark.skipif(
    not Packer.serves(torch.float32, CPU), reason="this torch is built without oneDNN"
)


needs_bf16 = pytest.mark.skipif(
    not Packer.serves(torch.bfloat16, CPU), reason="oneDNN takes no BF16 on this processor"
)
TYPES = [
    pytest.param(torch.float32, marks=needs_onednn),
    pytest.param(torch.bfloat16, marks=needs_bf16),
]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(2304, 768), (36, 100), (1, 64), (99, 1)])
def test_packed_product_equals_the_plain_one(shape, dtype):
    """To rounding: of sums in FP32, and in BF16 of the result, once."""
    weight, bias = torch.randn(shape).to(dtype), torch.randn(shape[0]).to(dtype)
    rtol = {torch.float32: 1e-4, torch.bfloat16: 2.0**-8}[dtype]
    for layer_bias in (bias, None):
        layer = Packer().pack(weight, layer_bias)
        assert layer is not None
        for rows in (0, 1, 2, 15, 16, 17, 96, 255, 256, 257, 600):
            x = torch.randn(rows, shape[1]).to(dtype)
            expected = functional.linear(x.double(), weight.double(), bias.double())
            expected = expected if layer_bias is not None else expected - bias.double()
            torch.testing.assert_close(layer(x).double(), expected, rtol=rtol, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_drops_what_is_negative_and_keeps_nan(dtype):
    """Weights that are damaged must show in the output."""
    plain, relu = column(dtype), column(dtype, relu=True)
    x = torch.randn(9, 32).to(dtype)
    assert torch.equal(relu(x), plain(x).relu())
    x[4, 7] = float("nan")
    assert relu(x)[4].isnan().all()


def test_a_gpus_product_ends_with_the_relu():
    """As it is called there; on a CPU the same operation gives what ours does."""
    weight, bias, x = torch.randn(64, 48), torch.randn(64), torch.randn(9, 48)
    fused = torch._addmm_activation(bias, x, weight.t())
    torch.testing.assert_close(fused, Linear(weight, bias, relu=True)(x))


@needs_onednn
def test_packing_does_not_depend_on_the_number_of_threads():
    weight, x = torch.randn(300, 200), torch.randn(33, 200)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        layer = PackedLinear(weight, None)
        torch.set_num_threads(1)
        torch.testing.assert_close(layer(x), x @ weight.T, rtol=1e-4, atol=1e-4)
    finally:
        torch.set_num_threads(threads)


@needs_onednn
def test_a_layout_that_fails_its_proof_is_not_used(monkeypatch):
    call = PackedLinear.__call__
    monkeypatch.setattr(PackedLinear, "__call__", lambda self, x: call(self, x) + (len(x) == 33))
    assert Packer().pack(torch.randn(64, 64), None) is None


def column(dtype, *, relu=False):
    source = DummyWeights(0, longest=64, device=CPU)
    builder = Builder(source, Communicator(), dtype=dtype, device=CPU)
    share = Share.padded(64, Communicator())
    return builder.column(["layer"], [share], 32, bias=True, relu=relu)


@pytest.mark.parametrize("dtype", TYPES)
def test_layers_are_packed(dtype):
    assert isinstance(column(dtype), PackedLinear)


def test_other_types_and_devices_are_not(monkeypatch):
    assert isinstance(column(torch.float16), Linear)
    assert not packed.Packer.serves(torch.float32, torch.device("meta"))
    for answer in (lambda: False, None):  # this processor cannot; this torch cannot tell
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", answer)
        assert isinstance(column(torch.bfloat16), Linear)
