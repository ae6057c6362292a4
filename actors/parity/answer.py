"""What one side makes of one picture and prompt."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Answer:
    """Tokens leave out the start and the end; `inputs` are what the vision model is given, None where there is none.

    `inputs` is [3, X, Y] normalised pixels, or [patches, 2 + values] with row and column (from 1) before the values of
    a patch. `log_probs_TV` are what the greedy choice of each step was made from.
    """

    token_ids: tuple[int, ...]
    inputs: Tensor | None
    log_probs_TV: Tensor | None = None
