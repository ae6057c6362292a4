"""The running mean of weights (Polyak and Juditsky 1992), which is what is validated and shipped where it is kept."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Averages:
    """`values` are the means by name, empty where none is kept (`decay` 0)."""

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = parameters if decay else {}, decay
        self.values: dict[str, Tensor] = {name: p.detach().clone() for name, p in self.parameters.items()}
        self._update = get_ema_multi_avg_fn(decay)
        self._count = torch.ones((), dtype=torch.int64)

    @torch.no_grad()
    def update(self) -> None:
        """Take the parameters, as they are after a step, into the means."""
        if self.values:
            self._update(list(self.values.values()), [p.detach() for p in self.parameters.values()], self._count)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the means inside, its own weights again afterwards."""
        own = {name: p.detach().clone() for name, p in self.parameters.items()}
        try:
            self._put(self.values)
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self.parameters[name].copy_(value)

    def settle(self) -> None:
        """Put the means into the model for good."""
        self._put(self.values)
