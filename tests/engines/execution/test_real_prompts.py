"""Prompts' attention in one call over all of them: dense or gathered keys, and the choice of it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from dense_attention import causal_attention
from exact_tokens import SPECS, wrong_configs
from real_serving import all_expected, checkpoint, engine_over, request, serve, tokens
from torch import Tensor

from engines.core.config import EngineConfig, System
from engines.core.errors import UserError
from engines.execution import varlen
from engines.execution.kv_cache import CacheShape, KVCache, create_cache
from engines.execution.varlen import Attend, Lengths, per_sequence
from engines.kernels.interface import NewTokens, PagedContext
from engines.kernels.library import load_kernels

CPU = torch.device("cpu")
QUERIES, KEYS = [7, 1, 30, 12], [7, 20, 41, 12]  # two of them have a cached prefix
HEADS, KV_HEADS, SIZE = 4, 2, 64
# What torch 2.11 takes; later ones add arguments at the end.
FLASH_2_11 = (
    "aten::_flash_attention_forward(Tensor query, Tensor key, Tensor value, Tensor? cum_seq_q, "
    "Tensor? cum_seq_k, SymInt max_q, SymInt max_k, float dropout_p, bool is_causal, "
    "bool return_debug_mask, *, float? scale=None, SymInt? window_size_left=None, "
    "SymInt? window_size_right=None, Tensor? seqused_k=None, Tensor? alibi_slopes=None) -> "
    "(Tensor output, Tensor softmax_logsumexp, Tensor rng_state, Tensor unused, "
    "Tensor debug_attn_mask)"
)


def lengths(device: torch.device = CPU) -> Lengths:
    starts = (
        torch.tensor(np.cumsum([0, *n]), dtype=torch.int32, device=device) for n in (QUERIES, KEYS)
    )
    return Lengths(QUERIES, KEYS, *starts)


def heads(dtype: torch.dtype = torch.float32, device: torch.device = CPU) -> list[Tensor]:
    torch.manual_seed(0)
    shapes = ((sum(QUERIES), HEADS), (sum(KEYS), KV_HEADS), (sum(KEYS), KV_HEADS))
    return [torch.randn(*shape, SIZE).to(device, dtype) for shape in shapes]


def expected(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    parts = zip(q.split(QUERIES), k.split(KEYS), v.split(KEYS), strict=True)
    return torch.cat([causal_attention(*part) for part in parts])


def test_a_call_for_each_sequence_attends_to_its_last_keys() -> None:
    q, k, v = heads()
    torch.testing.assert_close(per_sequence(lengths())(q, k, v), expected(q, k, v))


CACHES = {
    "blocks of 1": EngineConfig(system=System.ASTRA, num_slots=200, block_size=1, max_model_len=64),
    "blocks of 16": EngineConfig(system=System.ASTRA, num_slots=320, max_model_len=64),
    "chunks": EngineConfig(system=System.ORCA_MAX, num_slots=300, max_model_len=64),
}


def fill(cache: KVCache, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Write contexts to scattered places; returns the tables and the slots of all their tokens."""
    tables = np.zeros((len(KEYS), cache.table_width), dtype=np.int32)
    if cache.stride == 1 and cache.block_size > 1:  # chunks
        starts = np.array([131, 3, 60, 200])
        tables[:] = np.minimum(starts[:, None] + cache.block_size * np.arange(tables.shape[1]), 300)
    else:
        order = np.random.default_rng(0).permutation(200 // cache.block_size)
        for table, count in zip(tables, KEYS, strict=True):
            used, order = np.split(order, [-(-count // cache.block_size)])
            table[: len(used)] = used
    places = [cache.prompt_slots(t, np.arange(n)) for t, n in zip(tables, KEYS, strict=True)]
    slots = torch.from_numpy(np.concatenate(places))
    cache.write(1, k, v, slots)
    return torch.from_numpy(tables), slots


@pytest.mark.parametrize("name", CACHES)
def test_gathered_keys_give_what_our_kernel_reads_from_the_cache(name: str) -> None:
    kernels = load_kernels("cpu")
    cache = create_cache(CacheShape(2, KV_HEADS, SIZE, torch.float32, CPU), CACHES[name], kernels)
    q, k, v = heads()
    tables, slots = fill(cache, k, v)
    gathered = cache.gather(1, cache.locate(slots))
    assert torch.equal(gathered[0], k)
    assert torch.equal(gathered[1], v)
    out, lens = torch.empty_like(q), torch.tensor(KEYS, dtype=torch.int32)
    context = PagedContext(cache.layers[2], cache.layers[3], tables, lens, max(KEYS))
    new = NewTokens(lengths().query_starts, max(QUERIES))
    kernels.prefix_attention(out, q, context, new, SIZE**-0.5)
    torch.testing.assert_close(per_sequence(lengths())(q, *gathered), out)


class Counted:
    """An implementation that counts its calls, so that a test sees them used."""

    def __init__(self) -> None:
        self.steps = self.calls = self.longest = 0

    def __call__(self, lengths: Lengths) -> Attend:
        self.steps += 1
        self.longest = max(self.longest, len(lengths.queries))
        attend = per_sequence(lengths)

        def counted(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self.calls += 1
            return attend(q, k, v)

        return counted


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """Executors of this test compute prompts in one call, as on a GPU."""
    found = Counted()
    monkeypatch.setitem(varlen.IMPLEMENTATIONS, "flash", found)
    monkeypatch.setattr(varlen, "choose", lambda *_: "flash")
    return found


@pytest.mark.parametrize(("kind", "sampling"), [("opt", "beam4"), ("llama", "n1")])
def test_every_system_chooses_the_same_tokens_from_one_call(
    counted: Counted, kind: str, sampling: str
) -> None:
    assert wrong_configs("cpu", load_kernels("cpu"), kind, sampling) == []
    assert counted.longest >= 4
    assert counted.calls == counted.steps * SPECS[kind].num_layers


@pytest.mark.parametrize("block_size", [1, 16])
def test_prompts_over_a_shared_prefix_choose_the_same_tokens(
    counted: Counted, block_size: int
) -> None:
    prefix = tuple(range(3, 23))
    requests = [
        request(i, (*prefix, 40 + i, 7 * i % 31), 8, prefix_len=len(prefix), arrival=i // 2)
        for i in range(6)
    ]
    config = EngineConfig(
        system=System.ASTRA, num_slots=512, block_size=block_size, share_prefix=True
    )
    engine = engine_over(checkpoint("llama"), config)
    found = tokens(serve(engine, requests))
    assert found == dict(all_expected("llama", requests))
    assert counted.calls > 0


def test_flash_is_called_as_torch_2_11_and_this_one_take_it() -> None:
    meta = torch.device("meta")
    q, k, v = heads(torch.float16, meta)
    assert varlen.flash(lengths(meta))(q, k, v).shape == q.shape
    installed = torch.ops.aten._flash_attention_forward.default._schema
    assert installed.is_backward_compatible_with(torch._C.parse_schema(FLASH_2_11))


def test_xformers_gets_the_mask_that_ends_where_the_keys_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its kernels need a GPU: here its own mask, written out, stands in for them."""
    fmha = pytest.importorskip("xformers.ops").fmha

    def dense(q: Tensor, k: Tensor, v: Tensor, mask: object) -> Tensor:
        bias = mask.materialize((q.shape[1], k.shape[1]))  # type: ignore[attr-defined]
        scores = torch.einsum("bqghd,bkghd->bghqk", q, k) * SIZE**-0.5 + bias
        return torch.einsum("bghqk,bkghd->bqghd", scores.softmax(-1), v).contiguous()

    monkeypatch.setattr(fmha, "memory_efficient_attention_forward", dense)
    q, k, v = heads()
    torch.testing.assert_close(varlen.memory_efficient(lengths())(q, k, v), expected(q, k, v))


def test_cudnn_is_not_asked_for_attention() -> None:
    torch.backends.cuda.enable_cudnn_sdp(True)
    engine_over(checkpoint("opt"), EngineConfig(system=System.FT, num_slots=1024))
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def first_working(wanted: str) -> str | None:
    uncached: Callable[[str, torch.device], str | None] = varlen._first_working.__wrapped__
    return uncached(wanted, CPU)


def from_the_first_key(lengths: Lengths) -> Attend:
    """Attends causally as if queries and keys began together."""
    return lambda q, k, v: per_sequence(lengths)(q, k.flip(0), v)


def explode(_: Lengths) -> Attend:
    raise RuntimeError("no kernel image is available\nfor this device")


@pytest.mark.parametrize("broken", [explode, from_the_first_key, varlen.memory_efficient])
def test_the_other_is_used_where_one_does_not_work(
    broken: Callable[[Lengths], Attend],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A call that fails, one with a wrong result, and a package that cannot be imported."""
    monkeypatch.setitem(sys.modules, "xformers.ops", None)
    monkeypatch.setitem(varlen.IMPLEMENTATIONS, "flash", per_sequence)
    monkeypatch.setitem(varlen.IMPLEMENTATIONS, "xformers", broken)
    with caplog.at_level(logging.WARNING):
        assert first_working("xformers") == "flash"
        assert first_working("flash") == "flash"
    (notice,) = caplog.messages
    assert notice.startswith("xformers does not compute prompts' attention here: ")
    assert "\n" not in notice
    monkeypatch.setitem(varlen.IMPLEMENTATIONS, "flash", explode)
    assert first_working("flash") is None


def test_a_model_gets_what_serves_its_type_and_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "_first_working", lambda wanted, device: wanted)
    cuda, half, full = torch.device("cuda"), torch.float16, torch.float32
    assert varlen.choose(cuda, half, 80) == varlen.choose(cuda, torch.bfloat16, 256) == "flash"
    monkeypatch.setenv(varlen.SETTING, "xformers")
    assert varlen.choose(cuda, half, 128) == "xformers"
    for device, dtype, head_size in ((CPU, full, 64), (cuda, full, 64), (cuda, half, 320)):
        assert varlen.choose(device, dtype, head_size) is None
    assert varlen.choose(cuda, half, 68) is None
    monkeypatch.setenv(varlen.SETTING, "flsh")
    with pytest.raises(UserError, match=r"ASTRA_PROMPT_ATTENTION: .*'flsh'.*flash"):
        varlen.choose(CPU, half, 64)
