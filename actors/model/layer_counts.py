"""How many layers a configuration speaks of: more than its weights can have would take for ever to build."""

import re
from collections.abc import Iterator
from typing import Any

from conf.errors import UserError

_COUNTS_LAYERS = re.compile(
    r"(^|\.)(num_(hidden_|encoder_|decoder_)?layers|(encoder|decoder)_layers|n_layers?|depths?)$"
)


def check_layer_counts(config: Any, num_tensors: int, what: str) -> None:
    """UserError where a number of layers is larger than the number of tensors: every layer has some of its own."""
    for name, count in _layer_counts(config, ""):
        if count > num_tensors:
            raise UserError(f"{what} cannot have {name}={count}: its weights are {num_tensors} tensors")


def _layer_counts(values: Any, name: str) -> Iterator[tuple[str, int]]:
    """Yield every setting of a configuration, as JSON has it, that counts layers: its dotted name and its value."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _layer_counts(value, f"{name}.{key}" if name else str(key))
    elif _COUNTS_LAYERS.search(name):
        counts = values if isinstance(values, list) else [values]
        yield from ((name, count) for count in counts if isinstance(count, int) and not isinstance(count, bool))
