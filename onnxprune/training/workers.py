"""Several processes, on one machine or on many, each with a part of every batch.

    torchrun --nproc-per-node 2 -m onnxprune finetune ...

is all there is to it: torchrun tells each process who it is, gradients are averaged by torch's
`DistributedDataParallel`, and the first process judges and writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn import Module
from torch.nn.parallel import DistributedDataParallel


class Workers:
    """The processes of this run, of which this is number `rank`."""

    def __init__(self, rank: int = 0, count: int = 1, local: int = 0) -> None:
        self.rank, self.count, self.local = rank, count, local

    @property
    def first(self) -> bool:
        """Whether it is this process that judges and writes."""
        return self.rank == 0

    def wrap(self, module: Module, device: torch.device) -> Module:
        """The module, with gradients that are averaged over all processes."""
        if self.count == 1:
            return module
        ids = [device.index] if device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=ids)

    def apart(self, module: Module) -> AbstractContextManager[Any]:
        """While gradients of several pieces are added up, nothing is exchanged."""
        return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()

    def told(self, value: float) -> float:
        """A number of the first process's, in all of them."""
        if self.count == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64)
        if distributed.get_backend() == "nccl":
            shared = shared.cuda(self.local)
        distributed.broadcast(shared, 0)
        return float(shared[0])

    def mean(self, value: Tensor) -> Tensor:
        """The average over all processes."""
        if self.count > 1:
            distributed.all_reduce(value)
            value = value / self.count
        return value


@contextmanager
def workers() -> Iterator[Workers]:
    """The processes that torchrun started, or this one alone."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1 or not distributed.is_available():
        yield Workers()
        return
    rank, local = (int(os.environ.get(name, "0")) for name in ("RANK", "LOCAL_RANK"))
    mine = not distributed.is_initialized()
    if mine:
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Workers(rank, count, local)
    finally:
        if mine:
            distributed.destroy_process_group()
