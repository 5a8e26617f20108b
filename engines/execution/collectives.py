"""Ranks that talk by torch.distributed: NCCL among GPUs, gloo among CPUs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # it is compiled

BACKENDS = {"cpu": "gloo", "cuda": "nccl"}
LOOPBACK = "127.0.0.1"
_JOIN_TIMEOUT = timedelta(seconds=120)


def open_store(host: str) -> TCPStore:
    """Where ranks meet, opened by rank 0 at a port that is free (LOOPBACK: for this machine)."""
    return TCPStore(host, 0, is_master=True, timeout=_JOIN_TIMEOUT, wait_for_workers=False)


def reach_store(host: str, port: int) -> TCPStore:
    """The same from another rank."""
    return TCPStore(host, port, is_master=False, timeout=_JOIN_TIMEOUT)


@dataclass(frozen=True)
class TorchCommunicator:
    """The default process group as a `Communicator`.

    No operation waits for a GPU, and all can be captured in a CUDA graph.
    """

    rank: int
    size: int

    @classmethod
    def join(
        cls, store: TCPStore, *, rank: int, size: int, device: torch.device
    ) -> TorchCommunicator:
        """Meet the other ranks at rank 0's store; returns when all are there."""
        if store.host == LOOPBACK:  # gloo would look up this machine's name to be found
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        dist.init_process_group(
            BACKENDS[device.type],
            store=store,
            rank=rank,
            world_size=size,
            timeout=_JOIN_TIMEOUT,
            # NCCL then connects now, not in the first collective, which may be under capture.
            device_id=device if device.type == "cuda" else None,
        )
        return cls(rank, size)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """See `Communicator.all_reduce`."""
        dist.all_reduce(tensor)
        return tensor

    def all_gather(self, tensor: Tensor) -> Tensor:
        """See `Communicator.all_gather`."""
        count, *rest = tensor.shape
        gathered = tensor.new_empty(self.size * count, *rest)
        dist.all_gather_into_tensor(gathered, tensor.contiguous())
        return gathered.view(self.size, *tensor.shape)

    def agree(self, tensor: Tensor) -> Tensor:
        """See `Communicator.agree`."""
        dist.broadcast(tensor, src=0)
        return tensor
