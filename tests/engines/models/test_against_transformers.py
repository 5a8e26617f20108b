"""Our models give transformers' logits and tokens for the same checkpoint."""

from __future__ import annotations

import pytest
import torch
from real_serving import generate
from tiny_models import KINDS, PROMPT, Runner, reference_logits

from engines.models.load import load_model


def load(directory, **settings):
    return load_model(str(directory), **{"dtype": torch.float32, "device": "cpu", **settings})


@pytest.mark.parametrize("kind", KINDS)
def test_prompt_logits_equal_transformers(checkpoint, kind):
    reference, directory = checkpoint(kind)
    ours = Runner(load(directory)).step({0: PROMPT})[0]
    expected = reference_logits(reference, PROMPT)
    assert expected.std() > 0.1  # a constant output would prove nothing
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_decode_logits_equal_the_full_prompts(checkpoint, kind):
    reference, directory = checkpoint(kind)
    runner = Runner(load(directory))
    runner.step({0: PROMPT[:2]})
    rows = [runner.step({0: [token]})[0] for token in PROMPT[2:]]
    expected = reference_logits(reference, PROMPT)[2:]
    torch.testing.assert_close(torch.cat(rows), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_tokens_equal_generate(checkpoint, kind):
    reference, directory = checkpoint(kind)
    (expected,) = generate(reference, PROMPT, 20, min_new_tokens=20, eos_token_id=None)
    assert Runner(load(directory)).greedy(PROMPT, 20) == expected


@pytest.mark.parametrize("kind", ["opt", "llama-gqa-tied"])
def test_a_batch_of_prompts_and_decodes_equals_each_alone(checkpoint, kind):
    _, directory = checkpoint(kind)
    runner = Runner(load(directory))
    runner.step({0: PROMPT[:4]})
    mixed = runner.step({1: PROMPT[::-1], 0: PROMPT[4:5], 2: PROMPT[1:3]})
    for sequence, tokens in {1: PROMPT[::-1], 0: PROMPT[:5], 2: PROMPT[1:3]}.items():
        alone = Runner(load(directory)).step({7: tokens})[7]
        torch.testing.assert_close(
            mixed[sequence][-1], alone[-1], rtol=1e-5, atol=1e-5, msg=f"sequence {sequence}"
        )


@pytest.mark.parametrize("kind", ["opt", "opt-post-norm", "llama-gqa-tied"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.01), (torch.bfloat16, 0.08)])
def test_sixteen_bit_weights_stay_near(checkpoint, kind, dtype, tolerance):
    reference, directory = checkpoint(kind)
    ours = Runner(load(directory, dtype=dtype)).step({0: PROMPT})[0]
    expected = reference_logits(reference, PROMPT)
    assert ours.dtype == dtype
    assert (ours.float() - expected).norm() < tolerance * expected.norm()


def test_int32_indices_are_accepted(checkpoint):
    for kind in ("opt", "llama"):
        _, directory = checkpoint(kind)
        runner = Runner(load(directory))
        runner.attention.begin([(0, len(PROMPT))])
        positions = torch.arange(len(PROMPT), dtype=torch.int32)
        hidden = runner.model.forward(
            torch.tensor(PROMPT, dtype=torch.int32), positions, runner.attention
        )
        expected = Runner(load(directory)).step({0: PROMPT})[0]
        torch.testing.assert_close(runner.model.logits(hidden), expected)
