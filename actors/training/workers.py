"""Data parallel training without wrapping the model: every worker takes its share of a step and gradients are averaged.

One process without torch.distributed is a worker group of one. The process group itself is made by whoever starts the
workers (jobs/shared/train_on_ray.py).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, distributed

from conf.errors import UserError

Sample = TypeVar("Sample")


@dataclass(frozen=True)
class Workers:
    """This process among `count` equal ones; rank 0 writes and reports."""

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def check(self, batch_images: int) -> None:
        """Raise UserError unless a step's images can be shared evenly."""
        if batch_images % self.count:
            raise UserError(f"optimizer.batch_images={batch_images} must be a multiple of {self.count} workers")

    def mine(self, samples: Sequence[Sample]) -> list[Sample]:
        """This worker's share of a step's samples."""
        return list(samples[self.rank :: self.count])

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace every gradient by the mean over workers; one that no sample of ours reached counts as zero."""
        if self.count == 1:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        for parameter in trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self._average([parameter.grad for parameter in trained if parameter.grad is not None])

    def average_statistics(self, model: torch.nn.Module) -> None:
        """Running statistics of normalisation layers are each worker's own; make them one before they are used."""
        if self.count > 1:
            saved = model.state_dict().keys()  # leaves out what the configuration gives
            self._average([b for name, b in model.named_buffers() if name in saved and b.is_floating_point()])

    def average_numbers(self, values: Mapping[str, float], device: torch.device) -> dict[str, float]:
        """Return the mean over workers of numbers that all of them have."""
        if self.count == 1:
            return dict(values)
        numbers = torch.tensor([values[name] for name in sorted(values)], dtype=torch.float64, device=device)
        self._average([numbers])
        return dict(zip(sorted(values), numbers.tolist(), strict=True))

    def gather(self, values: Sequence[int], device: torch.device) -> list[list[int]]:
        """Return the numbers of every worker, by rank; each has as many."""
        if self.count == 1:
            return [list(values)]
        mine = torch.tensor(values, dtype=torch.int64, device=device)
        everyone = [torch.empty_like(mine) for _ in range(self.count)]
        distributed.all_gather(everyone, mine)
        return [numbers.tolist() for numbers in everyone]

    def _average(self, tensors: Sequence[Tensor]) -> None:
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        distributed.all_reduce(flat)
        flat /= self.count
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def agree(self, flag: bool, device: torch.device) -> bool:
        """Return what rank 0 says."""
        if self.count == 1:
            return flag
        said = torch.tensor([int(flag)], device=device)
        distributed.broadcast(said, src=0)
        return bool(said.item())

    def wait(self) -> None:
        """Return when every worker is here."""
        if self.count > 1:
            distributed.barrier()
