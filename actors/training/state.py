"""Where a training run stands, on disk: weights and optimizer moments as safetensors, the position as JSON.

Resuming never reads a pickle. The JSON names the weights it belongs to and is renamed last, so that a kill at any
moment leaves the state before.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from actors.training.scratch.muon import Muon

POSITION_FILE = "position.json"
_OPTIMIZER = "optimizer."


def save(
    directory: Path, tensors: Mapping[str, Tensor], optimizers: Sequence[torch.optim.Optimizer],
    names: Mapping[int, str], position: Mapping[str, Any],
) -> None:  # fmt: skip
    """Write the state of `position["step"]` and remove the one before.

    `tensors`: weights, no two of which share memory; `names`: id of every trained parameter -> its name.
    """
    directory.mkdir(parents=True, exist_ok=True)
    stored = {name: tensor.contiguous() for name, tensor in tensors.items()}
    for parameter, moments in (entry for optimizer in optimizers for entry in optimizer.state.items()):
        for key, value in moments.items():
            stored[f"{_OPTIMIZER}{names[id(parameter)]}.{key}"] = value.contiguous()
    weights = directory / f"step-{position['step']:07d}.safetensors"
    save_file(stored, weights)
    temporary = directory / f"{POSITION_FILE}.tmp"
    temporary.write_text(json.dumps({**position, "file": weights.name}))
    os.replace(temporary, directory / POSITION_FILE)
    for old in directory.glob("step-*.safetensors"):
        if old != weights:
            old.unlink()


def load(
    directory: Path, optimizers: Sequence[torch.optim.Optimizer], names: Mapping[int, str], device: torch.device
) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Put the saved moments into the optimizers; return position and weights, None when there is no state."""
    position = read_position(directory)
    if position is None:
        return None
    stored = load_file(directory / position["file"], device=str(device))
    for optimizer in optimizers:
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            prefix = f"{_OPTIMIZER}{names[id(parameter)]}."
            moments = {key.removeprefix(prefix): t for key, t in stored.items() if key.startswith(prefix)}
            if ("momentum" in moments) == isinstance(optimizer, Muon):  # not those of another optimizer
                optimizer.state[parameter] = {
                    key: t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t
                    for key, t in moments.items()
                }
    return position, {name: tensor for name, tensor in stored.items() if not name.startswith(_OPTIMIZER)}


def read_position(directory: Path) -> dict[str, Any] | None:
    """Return the position that was saved last; None when there is none."""
    path = directory / POSITION_FILE
    if not path.is_file():
        return None
    position: dict[str, Any] = json.loads(path.read_text())
    return position
