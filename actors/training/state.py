"""Where a training run stands, on disk: weights and optimizer moments as safetensors, the position as JSON.

Resuming never reads a pickle. The JSON names the weights it belongs to and is renamed last, so that a kill at any
moment leaves the state before.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from actors.training.scratch.muon import Muon

POSITION_FILE = "position.json"


def save(
    directory: Path, modules: dict[str, nn.Module], ties: Iterable[str], optimizers: list[torch.optim.Optimizer],
    names: dict[int, str], position: dict[str, Any],
) -> None:  # fmt: skip
    """Write the state of `position["step"]` and remove the one before.

    `modules`: prefix -> module; `ties`: names in "model" that only repeat another tensor; `names`: id of every trained
    parameter -> its name.
    """
    directory.mkdir(parents=True, exist_ok=True)
    copies = {f"model.{name}" for name in ties}
    tensors = {
        f"{prefix}.{name}": tensor.contiguous()
        for prefix, module in modules.items()
        for name, tensor in module.state_dict().items()
        if f"{prefix}.{name}" not in copies
    }
    for parameter, moments in (entry for optimizer in optimizers for entry in optimizer.state.items()):
        for key, value in moments.items():
            tensors[f"optimizer.{names[id(parameter)]}.{key}"] = value.contiguous()
    weights = directory / f"step-{position['step']:07d}.safetensors"
    save_file(tensors, weights)
    temporary = directory / f"{POSITION_FILE}.tmp"
    temporary.write_text(json.dumps({**position, "file": weights.name}))
    os.replace(temporary, directory / POSITION_FILE)
    for old in directory.glob("step-*.safetensors"):
        if old != weights:
            old.unlink()


def load(
    directory: Path, modules: dict[str, nn.Module], optimizers: list[torch.optim.Optimizer], names: dict[int, str],
    device: torch.device,
) -> dict[str, Any] | None:  # fmt: skip
    """Put the saved state into modules and optimizers and return its position; None when there is none."""
    position = read_position(directory)
    if position is None:
        return None
    tensors = load_file(directory / position["file"], device=str(device))
    for prefix, module in modules.items():
        own = {key.removeprefix(f"{prefix}."): t for key, t in tensors.items() if key.startswith(f"{prefix}.")}
        module.load_state_dict(own, strict=prefix != "model")  # tied tensors of the model are stored once
    for optimizer in optimizers:
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            prefix = f"optimizer.{names[id(parameter)]}."
            moments = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
            if ("momentum" in moments) == isinstance(optimizer, Muon):  # not those of another optimizer
                optimizer.state[parameter] = {
                    key: t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t
                    for key, t in moments.items()
                }
    return position


def read_position(directory: Path) -> dict[str, Any] | None:
    """Return the position that was saved last; None when there is none."""
    path = directory / POSITION_FILE
    if not path.is_file():
        return None
    position: dict[str, Any] = json.loads(path.read_text())
    return position
