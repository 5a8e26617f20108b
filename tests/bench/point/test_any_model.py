"""Points of models given by their config.json, and of devices with another host."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from model_configs import CONFIGS, mutate, write_config

from bench.cli import main
from bench.point.serve import run_point
from bench.point.spec import PointSpec
from bench.results.provenance import command_of, hash_inputs
from bench.results.store import Store

# Qwen2.5-7B-Instruct's, as published.
QWEN = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu",
    "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064,
    "max_position_embeddings": 32768, "max_window_layers": 28, "sliding_window": 131072,
    "use_sliding_window": False, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "eos_token_id": 151645,
}  # fmt: skip
SYSTEMS = ("astra", "orca-oracle", "orca-pow2", "orca-max", "ft")
SIMULATED_ONLY = "this model can be simulated, not run for real: "


def spec_of(model: str | Path, **values: Any) -> PointSpec:
    settings: dict[str, Any] = {"system": "astra", "rate": 3.0, "duration": 20.0}
    return PointSpec(model=str(model), **(settings | values))


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["run", "--system", "astra", *words])


def without_times(metrics: dict[str, Any]) -> dict[str, Any]:
    return {n: v for n, v in metrics.items() if n not in ("model", "wall_s", "host_us_per_step")}


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_config_alone_is_simulated_as_the_model_it_describes(tmp_path: Path, system: str) -> None:
    path = write_config(tmp_path, QWEN)
    by_file = run_point(spec_of(path, system=system))
    by_name = run_point(spec_of("qwen2.5-7b", system=system))
    assert without_times(by_file.metrics) == without_times(by_name.metrics)
    assert by_file.metrics["finished"] == by_file.metrics["requests"] > 0


@pytest.mark.parametrize("name", CONFIGS)
def test_every_family_is_served(tmp_path: Path, name: str) -> None:
    sizes = {"max_position_embeddings": 2048, "n_positions": 2048, "num_hidden_layers": 24}
    path = write_config(tmp_path, CONFIGS[name] | sizes)
    outcome = run_point(spec_of(path, workload="alpaca", kv_slots=20_000, swap_space_gib=0.1))
    assert outcome.metrics["finished"] == outcome.metrics["requests"] > 0


def test_results_say_what_execution_cannot_run(tmp_path: Path) -> None:
    path = write_config(tmp_path, QWEN | {"sliding_window": 4096, "use_sliding_window": True})
    found = run_point(spec_of(path)).inputs["model"]
    assert found["name"] == str(path)
    why, window = found["notes"]
    assert why.startswith(SIMULATED_ONLY)
    assert "unsupported model_type 'qwen2'" in why
    assert "sliding_window 4096 is ignored" in window
    assert run_point(spec_of("qwen2.5-7b")).inputs["model"]["notes"][0].startswith(SIMULATED_ONLY)
    for runs in ("opt-13b", "llama-3-8b", write_config(tmp_path, CONFIGS["llama"])):
        assert "model" not in run_point(spec_of(runs, kv_slots=20_000, swap_space_gib=0.1)).inputs


def test_a_folder_with_the_name_of_a_paper_model_is_not_that_model(tmp_path: Path) -> None:
    """Its slots follow from its own shape, on a server that is not the paper's for the name."""
    path = write_config(tmp_path / "opt-66b", QWEN).parent
    metrics = run_point(spec_of(path)).metrics
    assert metrics["device"] == "1x a100-40gb"
    assert metrics["kv_slots"] == run_point(spec_of("qwen2.5-7b")).metrics["kv_slots"]


def test_a_device_from_its_data_sheet_says_that_it_is_assumed() -> None:
    words = ("--model", "opt-13b", "--backend", "sim", "--duration", "20", "--quiet")
    told = run(*words, "--device-profile", "l40s").stderr
    assert "l40s: its rates are assumed from its data sheet" in told
    assert "assumed" not in run(*words, "--device-profile", "a100-80gb").stderr


def test_the_command_line_says_it_too_on_standard_error(tmp_path: Path) -> None:
    path = write_config(tmp_path, QWEN)
    result = run("--model", str(path), "--backend", "sim", "--duration", "20", "--json", "--quiet")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["model"] == str(path)
    assert f"{path}: {SIMULATED_ONLY}" in result.stderr


def test_mutated_configs_end_with_a_result_or_one_line(tmp_path: Path) -> None:
    random_ = random.Random(7)
    statuses = []
    for _ in range(150):
        path = write_config(tmp_path, mutate(random_.choice(list(CONFIGS.values())), random_))
        words = ["--backend", "sim", "--kv-slots", "9000", "--workload", "alpaca", "--quiet"]
        result = run("--model", str(path), *words, "--duration", "3", "--warmup", "0")
        statuses.append(result.exit_code)
        if result.exit_code:
            assert result.exit_code == 2, result.output
            assert isinstance(result.exception, SystemExit), result.exception
            assert result.stderr.startswith("Error: ")
            assert result.stderr.count("\n") == 1
    assert statuses.count(0) > 10
    assert statuses.count(2) > 50


def test_results_of_a_changed_config_are_stale(tmp_path: Path) -> None:
    path = write_config(tmp_path / "model", QWEN)
    for given in (path, path.parent):
        assert set(hash_inputs(spec_of(given))) == {"model"}
    before = hash_inputs(spec_of(path.parent))
    write_config(tmp_path / "model", QWEN | {"num_hidden_layers": 27})
    assert hash_inputs(spec_of(path.parent)) != before
    assert hash_inputs(spec_of(path.parent, backend="cpu")) == {}


def test_a_long_path_has_a_place_in_the_store(tmp_path: Path) -> None:
    spec = spec_of("/".join(["deep" * 20] * 10))
    directory = Store(tmp_path).directory(spec)
    directory.mkdir(parents=True)
    assert directory.name.endswith(spec.digest)


def test_another_host_is_another_point_with_its_own_device() -> None:
    paper, none = spec_of("opt-13b"), spec_of("opt-13b", host="none")
    assert "host" not in paper.to_dict()
    assert PointSpec.from_dict(none.to_dict()) == none
    assert "--host none" in command_of(none)
    slow, fast = run_point(paper), run_point(none)
    assert slow.metrics["device"] == "1x a100-40gb"
    assert fast.metrics["device"] == "1x a100-40gb, host none"
    assert fast.metrics["mean_tpot_s"] < 0.9 * slow.metrics["mean_tpot_s"]
    assert fast.inputs["device_profile"]["host"] == "none"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model", "none.json"), "none.json does not exist: give a Hugging Face checkpoint"),
        (("--model", "./opt-13b"), "opt-13b does not exist"),
        (("--model", "empty"), "empty/config.json does not exist"),
        (("--model", "qwen2.5-7"), "did you mean qwen2.5-7b"),
        (("--model", "llama-3-70b"), "llama-3-70b does not fit"),
        (("--model", "qwen2.5-7b", "--tensor-parallel", "14"), "the 4 KV heads of qwen2.5-7b"),
        (("--host", "nowhere"), "unknown host 'nowhere': did you mean none? known: none, paper"),
        (("--host", "none.toml"), "cannot read host none.toml"),
        (("--host", "none", "--backend", "cpu"), "--host none counts only for --backend sim"),
        (("--device-profile", "h100"), "did you mean h200 or h100-80gb"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    backend = () if "--backend" in words else ("--backend", "sim")
    result = run(*words, *backend)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
