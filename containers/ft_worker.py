"""Serves batches with NVIDIA's FasterTransformer: one JSON object a line, in and out.

Runs in the library's own Python (3.8 or newer), beside `engines.ft.library`, which talks to it.
The first line configures the model (the arguments of the library's `ParallelGPT`), each further
one is a batch. Weights are random. With several ranks the first reads and answers; all compute.
"""

import contextlib
import json
import os
import sys
import time

import torch
import torch.distributed as dist

DEVICE_TYPE = "cuda"
STANDARD_DEVIATION = 0.02  # of the random weights, as OPT's were before training


def main(library):
    """Serve until standard input ends."""
    answers = claim_output()
    join_ranks()
    order = next_order()
    model = create(order, library=library)
    with open(os.path.join(os.path.dirname(library), "..", "COMMIT")) as file:
        answer(answers, {"commit": file.read().strip()})
    while True:
        order = next_order()
        if order is None:
            return
        answer(answers, serve(model, order))


def claim_output():
    """Keep standard output for answers: the library prints there."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def join_ranks():
    """Join the process group before the library does; alone, without MPI."""
    if "OMPI_COMM_WORLD_RANK" in os.environ:
        dist.init_process_group(backend="mpi")
    else:
        store = dist.HashStore()
        dist.init_process_group(backend="gloo", store=store, rank=0, world_size=1)


def next_order():
    """Return what the first rank reads, on every rank; None at the end."""
    line = sys.stdin.readline().encode() if dist.get_rank() == 0 else b""
    length = torch.tensor([len(line)])
    dist.broadcast(length, 0)
    if not length:
        return None
    data = torch.tensor(list(line) or [0] * int(length), dtype=torch.uint8)
    dist.broadcast(data, 0)
    return json.loads(bytes(data.tolist()))


def answer(stream, values):
    """Write one line, from the first rank."""
    if dist.get_rank() == 0:
        stream.write(json.dumps(values) + "\n")
        stream.flush()


def create(arguments, library):
    """Make the library's model with random weights on this rank's GPU.

    All tensors get the model's type: at v5.3 an empty one is float32 and the library refuses it.
    """
    from utils.parallel_gpt import ParallelGPT

    with no_initial_values():
        model = ParallelGPT(lib_path=library, **arguments)
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[
        arguments["inference_data_type"]
    ]
    torch.manual_seed(0)
    model.weights._map(
        lambda weight: torch.empty(
            weight.shape, dtype=dtype, device=torch.device(DEVICE_TYPE, model.device)
        ).normal_(std=STANDARD_DEVIATION)
    )
    model.cuda()
    return model


@contextlib.contextmanager
def no_initial_values():
    """Keep the library from drawing its own values: on the CPU, which is slow, or fails in fp16."""
    before = torch.nn.init.normal_
    torch.nn.init.normal_ = lambda tensor, *_, **__: tensor
    try:
        yield
    finally:
        torch.nn.init.normal_ = before


def serve(model, order):
    """Compute one batch to its end; returns token ids [batch][beam][tokens] and seconds."""
    ids = torch.tensor(order["start_ids"], dtype=torch.int32)
    batch = len(ids)
    torch.cuda.synchronize()
    started = time.perf_counter()
    found = model(
        ids,
        torch.tensor(order["start_lengths"], dtype=torch.int32),
        order["output_len"],
        order["beam_width"],
        torch.full((batch,), order["top_k"], dtype=torch.int32),
        torch.full((batch,), order["top_p"], dtype=torch.float32),
        temperature=torch.full((batch,), order["temperature"], dtype=torch.float32),
        random_seed=torch.full((batch,), order["random_seed"], dtype=torch.int64),
    )
    torch.cuda.synchronize()
    return {"output_ids": found.cpu().tolist(), "elapsed_s": time.perf_counter() - started}


if __name__ == "__main__":
    main(sys.argv[1])
