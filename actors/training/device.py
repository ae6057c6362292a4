"""Where a training run computes, and in which precision."""

from dataclasses import dataclass
from typing import Literal

import torch

from actors.training.scratch.muon import native_bfloat16


@dataclass(frozen=True)
class Device:
    """A torch device and whether matrix products are taken in bfloat16."""

    device: torch.device
    bfloat16: bool

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bfloat16)


def choose_device(
    device: Literal["auto", "cpu", "cuda"], precision: Literal["auto", "float32", "bfloat16"], num_threads: int | None
) -> Device:
    """Return the device the configuration asks for; auto takes what the machine is good at."""
    if num_threads:
        torch.set_num_threads(num_threads)
    cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    chosen = torch.device("cuda" if cuda else "cpu")
    automatic = precision == "auto" and native_bfloat16(chosen)
    return Device(chosen, precision == "bfloat16" or automatic)
