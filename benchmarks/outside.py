"""Serves jobs with an engine that lives in an environment of its own (benchmarks/environments.py).

`python outside.py ENGINE FOLDER THREADS DTYPE` runs there: it reads jobs from standard input, a
line of JSON each, {"prompts": [[token, ...], ...], "output_lens": [...]}, and answers each with the
seconds that it took. It imports nothing of this project.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from typing import Any

CACHE_GIB = 4
BATCHED_TOKENS = 2048  # of a step, at most
REQUESTS = 256


class OpenVINO:
    """OpenVINO GenAI's continuous batching over a paged cache of the weights' type."""

    def __init__(self, folder: str, threads: int, dtype: str) -> None:
        import openvino
        import openvino_genai

        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = CACHE_GIB
        scheduler.max_num_batched_tokens = BATCHED_TOKENS
        scheduler.max_num_seqs = REQUESTS
        short = {"float32": "f32", "bfloat16": "bf16"}[dtype]
        self._genai, self._tensor = openvino_genai, openvino.Tensor
        self._pipeline: Any = openvino_genai.ContinuousBatchingPipeline(
            folder,
            scheduler,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": short,
                "KV_CACHE_PRECISION": short,
                "INFERENCE_NUM_THREADS": threads,
            },
        )

    def serve(self, prompts: list[list[int]], output_lens: list[int]) -> None:
        """Make as many tokens for each prompt as asked for."""
        import numpy as np

        configs = []
        for length in output_lens:
            config = self._genai.GenerationConfig()
            config.max_new_tokens, config.ignore_eos, config.do_sample = length, True, False
            configs.append(config)
        inputs = [self._tensor(np.array([prompt], dtype=np.int64)) for prompt in prompts]
        made = self._pipeline.generate(inputs, configs)
        lengths = [len(each.m_generation_ids[0]) for each in made]
        assert lengths == output_lens, "lengths are forced"


class VLLM:
    """vLLM's CPU engine; AMD's plugin takes effect where it is installed."""

    def __init__(self, folder: str, threads: int, dtype: str) -> None:
        os.environ |= {
            "VLLM_CPU_KVCACHE_SPACE": str(CACHE_GIB),
            "VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_LOGGING_LEVEL": "ERROR",
            "VLLM_NO_USAGE_STATS": "1",
        }
        with contextlib.redirect_stdout(sys.stderr):
            import vllm

            self._vllm = vllm
            self._engine: Any = vllm.LLM(
                model=folder,
                dtype=dtype,
                skip_tokenizer_init=True,
                enable_prefix_caching=False,
                max_num_batched_tokens=BATCHED_TOKENS,
                max_num_seqs=REQUESTS,
                disable_log_stats=True,
            )

    def serve(self, prompts: list[list[int]], output_lens: list[int]) -> None:
        """Make as many tokens for each prompt as asked for."""
        params = [
            self._vllm.SamplingParams(
                temperature=0.0, max_tokens=length, ignore_eos=True, detokenize=False
            )
            for length in output_lens
        ]
        inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
        made = self._engine.generate(inputs, params, use_tqdm=False)
        assert [len(each.outputs[0].token_ids) for each in made] == output_lens, (
            "lengths are forced"
        )


ENGINES = {"openvino": OpenVINO, "vllm": VLLM}


def main(engine: str, folder: str, threads: str, dtype: str) -> None:
    """Load the engine, say so, and serve until standard input ends."""
    server = ENGINES[engine](folder, int(threads), dtype)
    print(json.dumps({"ready": engine}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        started = time.perf_counter()
        server.serve(job["prompts"], job["output_lens"])
        print(json.dumps({"seconds": time.perf_counter() - started}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
