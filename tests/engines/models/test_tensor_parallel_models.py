"""Slices of a model on several ranks give what the whole gives on one."""

from __future__ import annotations

import pytest
import torch
from tiny_models import KINDS, PROMPT, VOCAB, Runner, on_ranks

from engines.core.errors import UserError
from engines.core.models import MODELS, ModelSpec
from engines.models.builder import Builder
from engines.models.dummy import DummyWeights
from engines.models.interfaces import Communicator
from engines.models.linear import Share
from engines.models.load import allowed_degrees, describe_model, load_model


@pytest.mark.parametrize("degree", [2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_every_rank_gives_the_logits_of_one(checkpoint, kind, degree):
    _, directory = checkpoint(kind)
    whole = load_model(str(directory), dtype=torch.float32, device="cpu")
    expected = Runner(whole).step({0: PROMPT})[0]

    def work(communicator):
        model = load_model(
            str(directory), dtype=torch.float32, device="cpu", communicator=communicator
        )
        runner = Runner(model)
        first = runner.step({0: PROMPT})[0]
        return model, first, Runner(model).greedy(PROMPT, 12)

    tokens = Runner(whole).greedy(PROMPT, 12)
    for model, logits, continuation in on_ranks(degree, work):
        assert logits.shape == (len(PROMPT), VOCAB)
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
        assert continuation == tokens
        assert model.num_kv_heads == max(1, model.spec.kv_heads // degree)
        assert model.weight_bytes < 0.75 * whole.weight_bytes


def test_dummy_weights_are_one_model_at_any_degree(monkeypatch):
    monkeypatch.setitem(MODELS, "opt-toy", ModelSpec("opt-toy", "opt", 2, 4, 64, 256, VOCAB))

    def work(communicator):
        model = load_model(
            "opt-toy", dtype=torch.float32, device="cpu", communicator=communicator, seed=3
        )
        return Runner(model).step({0: PROMPT})[0]

    whole = load_model("opt-toy", dtype=torch.float32, device="cpu", seed=3)
    expected = Runner(whole).step({0: PROMPT})[0]
    for logits in on_ranks(2, work):
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_padded_shares_cover_the_vocabulary_once():
    for total in (1, 5, 99, 100):
        for size in (1, 2, 3, 4, 8):
            shares = [Share.padded(total, Communicator(rank, size)) for rank in range(size)]
            held = [i for s in shares for i in range(s.start, s.start + s.length)]
            assert held == list(range(total))


def test_a_rank_without_tokens_of_the_vocabulary():
    """Five tokens on four ranks: 2, 2, 1 and none."""
    source = DummyWeights(0, longest=8, device=torch.device("cpu"))
    token_ids = torch.tensor([4, 0, 2, 3, 1, 4])

    def work(communicator):
        builder = Builder(source, communicator, dtype=torch.float32, device=torch.device("cpu"))
        embedding = builder.embedding("table", 5, 8)
        hidden = embedding(token_ids)
        return hidden, builder.head(embedding, tied=True)(hidden)

    expected_hidden, expected_logits = work(Communicator())
    for hidden, logits in on_ranks(4, work):
        assert torch.equal(hidden, expected_hidden)
        torch.testing.assert_close(logits, expected_logits)


def test_few_kv_heads_are_held_by_several_ranks():
    assert [Share.kv_heads(2, Communicator(rank, 4)).start for rank in range(4)] == [0, 0, 1, 1]
    assert [Share.kv_heads(4, Communicator(rank, 2)).start for rank in range(2)] == [0, 2]


def test_degree_that_does_not_divide_the_heads():
    with pytest.raises(UserError, match=r"degree 5 does not divide opt-125m \(12 heads.*1, 2, 3"):
        load_model("opt-125m", dtype=torch.float32, device="cpu", communicator=Communicator(0, 5))


def test_allowed_degrees(checkpoint):
    assert allowed_degrees(describe_model("opt-66b")[0])[:5] == [1, 2, 3, 4, 6]
    assert allowed_degrees(describe_model(str(checkpoint("llama-gqa-tied")[1]))[0]) == [1, 2, 4]
