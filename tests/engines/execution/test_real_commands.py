"""`bench generate` and points on the CPU, from the command line to the numbers."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from real_serving import checkpoint, expected
from safetensors.torch import load_file, save_file

from bench.cli import main
from bench.point import model as backends
from bench.point.serve import run_point
from bench.point.spec import PointSpec
from engines.core.errors import UserError

PROMPT = [5, 17, 3, 88]
GOOD = {"prompt_token_ids": PROMPT, "max_tokens": 6}


def bench(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


def generate(folder: Path, *lines: object, options: tuple[str, ...] = ("--json",)) -> Result:
    file = folder / "in.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    file.write_text("\n".join(texts), encoding="utf-8")
    model = str(checkpoint("opt").directory)
    return bench("generate", "--system", "astra", "--backend", "cpu", "--kv-slots", "1024",
                 "--model", model, "--input", str(file), *options)  # fmt: skip


@pytest.mark.parametrize("system", ["astra", "orca-pow2", "ft"])
def test_generate_prints_one_line_a_prompt(tmp_path: Path, system: str) -> None:
    beams = {**GOOD, "sampling": "beam4", "ignore_eos": True}
    result = generate(tmp_path, GOOD, "", beams, options=("--json", "--system", system))
    assert result.exit_code == 0, result.output
    greedy, best = (json.loads(line) for line in result.stdout.splitlines())
    assert [greedy["index"], best["index"]] == [0, 1]
    assert [o["token_ids"] for o in greedy["outputs"]] == expected("opt", tuple(PROMPT), 6)
    assert [o["token_ids"] for o in best["outputs"]] == expected("opt", tuple(PROMPT), 6, beams=4)
    scores = [o["cumulative_logprob"] for o in best["outputs"]]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] < 0


def test_generate_without_json_prints_tokens(tmp_path: Path) -> None:
    result = generate(tmp_path, GOOD, options=())
    (output,) = expected("opt", tuple(PROMPT), 6)
    assert result.stdout == f"0: {' '.join(map(str, output))}\n"


BAD = {
    "{": "line 2: not valid JSON",
    "[]": "line 2: expected a JSON object, got []",
    '{"max_tokens": 3}': "line 2: give either prompt_token_ids, a list of token ids, or prompt",
    '{"prompt_token_ids": null, "max_tokens": 3}': "line 2: prompt_token_ids must be a list",
    '{"prompt": "a", "prompt_token_ids": [1], "max_tokens": 3}': "line 2: give either",
    '{"prompt": 5, "max_tokens": 3}': "line 2: prompt must be a text, got 5",
    '{"prompt": "\\ud800", "max_tokens": 3}': "line 2: prompt must be a text, got",
    '{"prompt": "a", "max_tokens": 3}': "; without a tokenizer, give prompt_token_ids",
    '{"prompt_token_ids": [], "max_tokens": 3}': "line 2: prompt_token_ids",
    '{"prompt_token_ids": [1.5], "max_tokens": 3}': "line 2: prompt_token_ids",
    '{"prompt_token_ids": [1]}': "line 2: max_tokens must be a positive integer",
    '{"prompt_token_ids": [1], "max_tokens": 0}': "line 2: max_tokens",
    '{"prompt_token_ids": [97], "max_tokens": 3}': "line 2: token id 97 is beyond the vocabulary",
    '{"prompt_token_ids": [1], "max_tokens": 3, "sampling": "bean4"}': "line 2: unknown sampling",
    '{"prompt_token_ids": [1], "max_tokens": 3, "temperature": -1}': "line 2: temperature",
    '{"prompt_token_ids": [1], "max_tokens": 3, "top_p": 0}': "line 2: top_p",
    '{"prompt_token_ids": [1], "max_tokens": 3, "temperature": NaN}': "line 2: temperature",
    f'{{"prompt_token_ids": [1], "max_tokens": 3, "top_p": {10**400}}}': "line 2: top_p must",
    "[" * 100_000: "line 2: not valid JSON",
    '{"prompt_token_ids": [1], "max_tokens": 3, "topp": 1}': "line 2: unknown key 'topp'",
    '{"prompt_token_ids": [1], "max_tokens": 64}': "line 2: request 1: 1 + 64 tokens exceed",
}


@pytest.mark.parametrize("line", BAD, ids=BAD.values())
def test_bad_lines_are_named(tmp_path: Path, line: str) -> None:
    result = generate(tmp_path, GOOD, line)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert BAD[line] in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--backend", "sim"), "backend 'sim' has no tokens"),
        (("--dtype", "float16"), "float16 needs --backend cuda"),
        (("--dtype", "int8"), "unknown dtype 'int8'"),
        (("--kv-slots", "1000000000000"), "kv_slots must be at most"),
        (("--model", "opt-31b"), "did you mean opt-30b"),
    ],
)
def test_what_cannot_run_says_why(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    result = generate(tmp_path, GOOD, options=options)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_cache_beyond_the_memory_says_what_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.execution.setup.free_memory_bytes", lambda _: 1 << 30)
    result = generate(tmp_path, GOOD, options=("--kv-slots", "1000000"))
    assert result.exit_code == 2
    assert "a KV cache of 1000000 slots needs 1.9 GiB, cpu has 1.0 GiB free" in result.stderr
    assert f"lower --kv-slots to {int(0.9 * 2**30) // 2048} or fewer" in result.stderr


@pytest.mark.parametrize("sampling", ["n1", "n2", "beam2"])
@pytest.mark.parametrize("system", ["astra", "orca-max", "ft"])
def test_weights_that_are_not_finite_are_told(tmp_path: Path, system: str, sampling: str) -> None:
    model = tmp_path / "model"
    shutil.copytree(checkpoint("opt").directory, model)
    weights = load_file(model / "model.safetensors")
    weights["model.decoder.layers.0.fc1.bias"].fill_(float("nan"))
    save_file(weights, model / "model.safetensors")
    options = ("--model", str(model), "--system", system)
    result = generate(tmp_path, {**GOOD, "sampling": sampling}, options=options)
    assert result.exit_code == 2
    assert "line 1: model gives no finite probabilities: its weights are damaged" in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_gpu_memory_must_be_a_size(tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text(json.dumps(GOOD), encoding="utf-8")
    words = ["generate", "--system", "astra", "--backend", "cpu", "--input", str(file)]
    words += ["--model", str(checkpoint("opt").directory), "--gpu-memory"]
    assert "'40' is not understood" in bench(*words, "40").stderr
    assert "leaves no memory for a KV cache" in bench(*words, "900MiB").stderr
    assert bench(*words, "1200MiB").exit_code == 0


def test_without_torch_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.startswith("engines.execution.setup")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match="needs PyTorch, which is not installed: install it"):
        backends.load_platform(PointSpec(system="astra", backend="cpu"))


@pytest.mark.parametrize("system", ["astra", "orca-max", "ft"])
def test_a_point_is_served_for_real(tmp_path: Path, system: str) -> None:
    trace = tmp_path / "trace.csv"
    rows = [f"{0.01 * i},{3 + i % 5},{4 + i % 7}" for i in range(12)]
    trace.write_text("\n".join(["arrival_s,input_len,output_len", *rows]), encoding="utf-8")
    spec = PointSpec(
        system=system, model=str(checkpoint("llama").directory), backend="cpu", trace=str(trace),
        kv_slots=512, warmup=0.0, window=(0.0, 60.0), block_size=8,
    )  # fmt: skip
    outcome = run_point(spec)
    metrics = outcome.metrics
    assert metrics["finished"] == metrics["requests"] == 12
    assert metrics["device"].startswith("cpu: ")
    assert metrics["kv_slots"] == 512
    assert metrics["mean_ttft_s"] > 0
    assert 0 < metrics["host_us_per_step"] * metrics["steps"] < 1e6 * metrics["wall_s"]
    assert metrics["throughput_tok_s"] > 0
    assert outcome.inputs["dtype"] == "float32"
