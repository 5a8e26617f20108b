"""The adapter to NVIDIA's library, its program included, against a library that only records.

The fake has the signatures of `ParallelGPT` at v5.3 and the checks that its C++ half makes.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

from bench.point.serve import run_point
from bench.point.spec import PointSpec
from engines.core.errors import LostWorkerError, UserError
from engines.core.models import MODELS
from engines.ft.library import NEVER, BatchOrder, Library, model_arguments

pytest.importorskip("torch")
FAKE = '''
import json, os
import torch
import torch.distributed as dist

class Weights:
    """A tensor of each kind; the gating placeholder has the wrong type, as at v5.3."""
    def __init__(self, dtype):
        self.w = [torch.zeros(4, 4, dtype=dtype), torch.zeros(3, dtype=dtype), torch.empty(0)]
        torch.nn.init.normal_(self.w[0], mean=0.0, std=1.0)
        assert not self.w[0].any(), "the library drew its own values"
    def _map(self, func):
        self.w = [func(w) for w in self.w]

class ParallelGPT:
    def __init__(self, head_num, size_per_head, vocab_size, start_id, end_id, layer_num,
                 max_seq_len, tensor_para_size, pipeline_para_size, lib_path, inference_data_type,
                 inter_size=0, layernorm_eps=1e-6, layernorm_type="pre_layernorm",
                 activation_type="Gelu", gpt_with_moe=False, expert_num=0, moe_k=0,
                 moe_layer_index=[], has_positional_encoding=True, has_pre_decoder_layernorm=False,
                 has_post_decoder_layernorm=True, has_adapters=False, adapter_inter_size=0,
                 use_attention_linear_bias=False, int8_mode=0, weights_data_type="fp32",
                 shared_contexts_ratio=1.0):
        print("[FT][INFO] the library prints on standard output", flush=True)
        record("init", {k: v for k, v in locals().items() if isinstance(v, (int, float, str))})
        assert dist.get_world_size() == tensor_para_size * pipeline_para_size
        self.device, self.built = dist.get_rank(), False
        self.weights = Weights({"fp16": torch.float16, "fp32": torch.float32}[inference_data_type])

    def cuda(self):
        assert len({w.dtype for w in self.weights.w}) == 1, "Inconsistency of Tensor type"
        self.built = True

    def __call__(self, start_ids, start_lengths, output_len, beam_width=1, top_k=None, top_p=None,
                 beam_search_diversity_rate=None, temperature=None, len_penalty=None,
                 repetition_penalty=None, presence_penalty=None, min_length=None,
                 random_seed=None, bad_words_list=None, return_output_length=False,
                 return_cum_log_probs=0):
        assert self.built
        batch, longest = start_ids.shape
        types = {"start_ids": torch.int32, "start_lengths": torch.int32, "top_k": torch.int32,
                 "top_p": torch.float32, "temperature": torch.float32, "random_seed": torch.int64}
        values = dict(locals())
        for name, dtype in types.items():
            assert values[name].dtype == dtype and values[name].is_contiguous(), name
            assert len(values[name]) == batch, name
        record("forward", {"ids": start_ids.tolist(), "lengths": start_lengths.tolist(),
                           "output_len": output_len, "beam_width": beam_width,
                           "top_k": top_k.tolist(), "temperature": temperature.tolist()})
        if output_len == 13:
            os._exit(5)
        out = torch.zeros(batch, beam_width, longest + output_len, dtype=torch.int32)
        for row in range(batch):
            length = int(start_lengths[row])
            for beam in range(beam_width):
                out[row, beam, :length] = start_ids[row, :length]
                out[row, beam, length : length + output_len] = 1000 * (row + 1) + 100 * beam
        return out

def record(what, values):
    with open(os.environ["FT_RECORD"], "a") as file:
        file.write(json.dumps([what, values]) + "\\n")
'''
PROGRAM = f"""#!{sys.executable}
import sys
sys.path[:0] = [r"%(folder)s", r"{ROOT / "containers"}"]
import torch
import ft_worker
torch.cuda.synchronize = lambda: None
ft_worker.DEVICE_TYPE = "cpu"
assert sys.argv[1:] == ["1"], sys.argv
ft_worker.main(r"%(folder)s/lib/libth_transformer.so")
"""


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a fake of the library and its program on the PATH; returns where calls are recorded."""
    folder = tmp_path / "ft"
    (folder / "utils").mkdir(parents=True)
    (folder / "lib").mkdir()
    (folder / "utils" / "__init__.py").touch()
    (folder / "utils" / "parallel_gpt.py").write_text(FAKE)
    (folder / "COMMIT").write_text("d21dc02\n")
    program = folder / "ft-worker"
    program.write_text(PROGRAM % {"folder": folder})
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setenv("FT_RECORD", str(tmp_path / "record"))
    return tmp_path / "record"


@pytest.fixture
def library(record: Path) -> Iterator[Library]:
    library = Library("ft-worker", model_arguments(MODELS["opt-13b"], 1, dtype="float16"))
    yield library
    library.close()


def calls(record: Path) -> list[tuple[str, dict[str, Any]]]:
    return [tuple(json.loads(line)) for line in record.read_text().splitlines()]


def test_the_model_is_made_as_the_library_makes_opt(record: Path, library: Library) -> None:
    assert library.commit == "d21dc02"
    ((what, made),) = calls(record)
    assert what == "init"
    assert made["head_num"] * made["size_per_head"] == 5120
    assert (made["layer_num"], made["vocab_size"], made["max_seq_len"]) == (40, 50272, 2048)
    assert (made["inter_size"], made["inference_data_type"]) == (20480, "fp16")
    assert (made["layernorm_eps"], made["activation_type"]) == (1e-5, "Relu")
    assert made["end_id"] == NEVER
    assert made["lib_path"].endswith("libth_transformer.so")


def test_a_batch_is_padded_on_the_right(record: Path, library: Library) -> None:
    answer = library.run(BatchOrder([[5, 6, 7], [8, 0, 0]], [3, 1], 2, beam_width=2))
    assert answer.output_ids == [
        [[5, 6, 7, 1000, 1000], [5, 6, 7, 1100, 1100]],
        [[8, 2000, 2000, 0, 0], [8, 2100, 2100, 0, 0]],
    ]
    assert answer.elapsed_s > 0
    assert calls(record)[-1] == (
        "forward",
        {"ids": [[5, 6, 7], [8, 0, 0]], "lengths": [3, 1], "output_len": 2, "beam_width": 2,
         "top_k": [1, 1], "temperature": [1.0, 1.0]},
    )  # fmt: skip


def test_a_program_that_ends_is_told(library: Library) -> None:
    with pytest.raises(LostWorkerError, match="ended with status 5"):
        library.run(BatchOrder([[1]], [1], 13))
    with pytest.raises(LostWorkerError):
        library.run(BatchOrder([[1]], [1], 2))


@pytest.mark.parametrize(
    ("sampling", "beams", "rows"), [("n1", 1, 1), ("n2", 1, 2), ("beam4", 4, 1)]
)
def test_a_point_is_served_by_the_library_behind_the_ft_policy(
    record: Path, sampling: str, beams: int, rows: int
) -> None:
    spec = PointSpec(
        system="ft", model="opt-125m", backend="cuda", workload="alpaca", sampling=sampling,
        rate=20.0, duration=1.0, max_batch_size=4, kv_slots=20_000,
    )  # fmt: skip
    outcome = run_point(spec)
    assert outcome.metrics["finished"] == outcome.metrics["requests"] > 4
    assert "NVIDIA's FasterTransformer" in outcome.metrics["device"]
    assert outcome.inputs["ft_library_commit"] == "d21dc02"
    (_, *forwards) = calls(record)
    served = [length for _, call in forwards for length in call["lengths"]]
    assert sorted(served) == sorted([*outcome.requests["input_len"]] * rows)
    for _, call in forwards:
        assert call["beam_width"] == beams
        assert len(call["lengths"]) <= 4 * rows
        assert call["top_k"][0] == (0 if sampling == "n2" else 1)
    assert max(call["output_len"] for _, call in forwards) == max(outcome.requests["output_len"])


def test_what_the_library_cannot_run_is_refused() -> None:
    for name, degree, dtype, why in (
        ("llama-13b", 1, "float16", "runs OPT models alone"),
        ("opt-350m", 1, "float16", "not opt-350m"),
        ("opt-13b", 3, "float16", "degree 3 does not divide the 40 heads"),
        ("opt-13b", 1, "int8", "has no type int8"),
    ):
        with pytest.raises(UserError, match=why):
            model_arguments(MODELS[name], degree, dtype=dtype)
