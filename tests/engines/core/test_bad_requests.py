"""Requests and settings that can never be served: one line with the value and the remedy."""

from __future__ import annotations

from typing import Any

import pytest
from serving import ORCA, make_config, make_engine, make_request

from engines.core.config import EngineConfig, System
from engines.core.errors import UserError
from engines.core.request import Request
from engines.core.sampling import SamplingParams

ALL = [system.value for system in System]


def refuse(config: EngineConfig, request: Request) -> str:
    """The message with which a request is refused; nothing of it is queued."""
    engine = make_engine(config)
    with pytest.raises(UserError) as caught:
        engine.add_request(request)
    assert not engine.has_work
    message = str(caught.value)
    assert "\n" not in message
    assert f"request {request.request_id}" in message
    return message


@pytest.mark.parametrize("system", ALL)
@pytest.mark.parametrize(("prompt_len", "output_len"), [(40, 25), (64, 1), (1, 64)])
def test_longer_than_the_context(system: str, prompt_len: int, output_len: int) -> None:
    config = make_config(system, num_slots=4096)
    message = refuse(config, make_request(7, prompt_len, output_len))
    assert f"{prompt_len} + {output_len} tokens exceed the model's context of 64" in message
    make_engine(config).add_request(make_request(7, prompt_len - 1 or 1, 64 - prompt_len or 1))


@pytest.mark.parametrize("system", ALL)
@pytest.mark.parametrize(("prompt_len", "output_len"), [(0, 5), (5, 0), (-1, 5)])
def test_empty(system: str, prompt_len: int, output_len: int) -> None:
    message = refuse(make_config(system), make_request(3, prompt_len, output_len))
    assert f"at least 1 token, got {prompt_len} and {output_len}" in message


@pytest.mark.parametrize(
    ("system", "request_values", "fits", "problem"),
    [
        # 10 prompt blocks are shared, each sequence needs 6 of its own and one to spare
        ("astra", {"prompt_len": 40, "output_len": 24, "sampling": "n2"}, 96, "may need 24 blocks"),
        ("orca-oracle", {"prompt_len": 20, "output_len": 10}, 32, "reserves 1 x 30 contiguous"),
        ("orca-pow2", {"prompt_len": 20, "output_len": 9}, 64, "reserves 1 x 36 contiguous"),
        ("orca-max", {"prompt_len": 2, "output_len": 2}, 64, "reserves 1 x 64 contiguous"),
        ("orca-oracle", {"prompt_len": 9, "output_len": 9, "sampling": "n3"}, 96, "3 x 18"),
        ("ft", {"prompt_len": 20, "output_len": 10, "sampling": "n2"}, 60, "needs 60 KV slots"),
    ],
)
def test_larger_than_the_cache(
    system: str, request_values: dict[str, Any], fits: int, problem: str
) -> None:
    """Refused in a cache one slot (of a block, one block) too small, accepted in the next."""
    request = make_request(5, **request_values)
    config = make_config(system, num_slots=fits - 1, watermark=0.0)
    message = refuse(config, request)
    assert problem in message
    assert "raise --kv-slots" in message
    make_engine(make_config(system, num_slots=fits, watermark=0.0)).add_request(request)


def test_watermark_counts() -> None:
    """What is kept free when admitting is not there for a request."""
    request = make_request(0, 30, 20)
    make_engine(make_config(num_slots=60, watermark=0.0)).add_request(request)
    assert "may need 16 blocks" in refuse(make_config(num_slots=60, watermark=0.14), request)


@pytest.mark.parametrize("system", ["astra", *(s.value for s in ORCA)])
def test_more_sequences_than_the_limit(system: str) -> None:
    config = make_config(system, num_slots=4096, max_num_seqs=3)
    message = refuse(config, make_request(1, 4, 4, sampling="n4"))
    assert "4 sequences exceed the limit of 3: raise --max-num-seqs" in message


@pytest.mark.parametrize(
    ("system", "tokens"), [("astra", 30), ("orca-oracle", 60), ("orca-pow2", 60), ("orca-max", 60)]
)
def test_prompt_larger_than_a_batch(system: str, tokens: int) -> None:
    """Astra computes a group's prompt once, Orca once for each of its two sequences."""
    request = make_request(1, 30, 4, sampling="n2")
    config = make_config(system, num_slots=4096, max_batched_tokens=tokens - 1)
    message = refuse(config, request)
    assert f"{tokens} prompt tokens exceed {tokens - 1} per batch: raise --max-batched" in message
    enough = make_config(system, num_slots=4096, max_batched_tokens=tokens)
    make_engine(enough).add_request(request)


def test_ft_has_no_limit_of_tokens_per_batch() -> None:
    """Its batches are limited in requests."""
    config = make_config("ft", num_slots=4096, max_batched_tokens=8)
    make_engine(config).add_request(make_request(1, 30, 4, sampling="n2"))


def test_recomputing_needs_a_batch_for_the_whole_sequence() -> None:
    """A sequence preempted before its last token is recomputed as one prompt."""
    request = make_request(1, 30, 12)
    message = refuse(make_config(num_slots=256, max_batched_tokens=40), request)
    assert "recomputing 41 tokens would exceed 40 per batch" in message
    assert "--preemption swap" in message
    for values in ({"max_batched_tokens": 41}, {"max_batched_tokens": 40, "preemption": "swap"}):
        make_engine(make_config(num_slots=256, **values)).add_request(request)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"num_slots": 0}, "num slots must be at least 1, got 0"),
        ({"block_size": 0}, "block size must be at least 1, got 0"),
        ({"block_size": 257, "num_slots": 1000}, "block size must be from 1 to 256, got 257"),
        (
            {"num_slots": 3},
            "3 KV slots do not hold one block of 4 tokens: raise --kv-slots or lower --block-size",
        ),
        ({"max_batched_tokens": 0}, "max batched tokens must be at least 1, got 0"),
        ({"max_num_seqs": -1}, "max num seqs must be at least 1, got -1"),
        ({"max_batch_size": 0}, "max batch size must be at least 1, got 0"),
        ({"max_model_len": 0}, "max model len must be at least 1, got 0"),
        ({"watermark": 1.0}, "watermark must be in [0, 1), got 1.0"),
        ({"watermark": -0.1}, "watermark must be in [0, 1), got -0.1"),
        ({"swap_slots": -1}, "swap slots must be at least 0, got -1"),
    ],
)
def test_settings_out_of_range(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError) as caught:
        make_config(**values)
    assert str(caught.value) == problem


@pytest.mark.parametrize(
    ("name", "sampling"),
    [
        ("n1", SamplingParams()),
        ("n4", SamplingParams(n=4, temperature=1.0)),
        ("beam6", SamplingParams(n=6, beam=True)),
        ("beam1", SamplingParams()),
    ],
)
def test_sampling_by_name(name: str, sampling: SamplingParams) -> None:
    assert SamplingParams.parse(name) == sampling
    assert SamplingParams.parse(sampling.name) == sampling


@pytest.mark.parametrize("name", ["", "n", "n0", "n65", "beam", "beam-2", "4", "nbeam2", "n1.5"])
def test_unknown_sampling(name: str) -> None:
    with pytest.raises(UserError, match=r"unknown sampling .*known: beam2, beam4"):
        SamplingParams.parse(name)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"n": 0}, "number of sequences must be at least 1, got 0"),
        ({"temperature": -1.0}, "temperature must be 0 or from 1e-06 to 1e+06, got -1"),
        ({"temperature": float("nan")}, "temperature must be 0 or from 1e-06 to 1e+06, got nan"),
        ({"temperature": float("inf")}, "temperature must be 0 or from 1e-06 to 1e+06, got inf"),
        ({"temperature": 1e39}, "temperature must be 0 or from 1e-06 to 1e+06, got 1e+39"),
        ({"temperature": 1e-46}, "temperature must be 0 or from 1e-06 to 1e+06, got 1e-46"),
        ({"top_p": 0.0}, "top_p must be in (0, 1], got 0.0"),
        ({"top_p": 1.5}, "top_p must be in (0, 1], got 1.5"),
    ],
)
def test_sampling_out_of_range(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError) as caught:
        SamplingParams(**values)
    assert str(caught.value) == problem
