"""Ranks that talk by torch.distributed: NCCL among GPUs, gloo among CPUs."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # it is compiled

from engines.models.interfaces import Communicator

BACKENDS = {"cpu": "gloo", "cuda": "nccl"}
LOOPBACK = "127.0.0.1"
_JOIN_TIMEOUT = timedelta(seconds=120)
_WAIT_TIMEOUT = timedelta(minutes=30)  # one rank may load its slice long after the others
_T = TypeVar("_T")


def open_store(host: str) -> TCPStore:
    """Where ranks meet, opened by rank 0 at a port that is free (LOOPBACK: for this machine)."""
    return TCPStore(host, 0, is_master=True, timeout=_JOIN_TIMEOUT, wait_for_workers=False)


def reach_store(host: str, port: int) -> TCPStore:
    """The same from another rank."""
    return TCPStore(host, port, is_master=False, timeout=_JOIN_TIMEOUT)


class TorchCommunicator(Communicator):
    """The default process group as a `Communicator`.

    `all_reduce`, `all_gather` and `agree` never wait for a GPU and can be captured in CUDA graphs.
    """

    @classmethod
    def join(
        cls, store: TCPStore, *, rank: int, size: int, local_size: int, device: torch.device
    ) -> TorchCommunicator:
        """Meet the other ranks at rank 0's store; returns when all are there."""
        if store.host == LOOPBACK:  # gloo would look up this machine's name to be found
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        dist.init_process_group(
            BACKENDS[device.type],
            store=store,
            rank=rank,
            world_size=size,
            timeout=_WAIT_TIMEOUT,
            # NCCL then connects now, not in the first collective, which may be under capture.
            device_id=device if device.type == "cuda" else None,
        )
        return cls(rank, size, local_size)

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

    def gather_values(self, value: _T) -> list[_T]:
        """See `Communicator.gather_values`."""
        values: list[_T] = [value] * self.size
        dist.all_gather_object(values, value)
        return values


class RankClock:
    """Rank 0's wall clock on every rank, read once a step, so that all decide alike.

    Which requests have arrived before a step follows from `now`. It is all that ranks tell each
    other about scheduling.
    """

    def __init__(self, communicator: Communicator, device: torch.device) -> None:
        self.now = 0.0
        self._communicator = communicator
        self._device = device
        self._start = self._read_at = time.perf_counter()

    def advance(self, elapsed_s: float) -> None:
        """Read the clock: the step already took its time."""
        del elapsed_s
        reading = torch.tensor([time.perf_counter() - self._start], dtype=torch.float64)
        self.now = float(self._communicator.agree(reading.to(self._device)))
        self._read_at = time.perf_counter()

    def wait_until(self, time_s: float) -> None:
        """Sleep until `time_s` on every rank, so that none waits in a collective meanwhile."""
        time.sleep(max(0.0, self._read_at + time_s - self.now - time.perf_counter()))
        self.advance(0.0)
