"""How a model spells the first word of what it says: labels must be spelled so, or its first token is taught anew.

Byte-level tokenizers have two tokens for a word, with a space before it and without. Which one a text begins with was
settled when the model was trained, and no file of it says so; what it says at full depth does.
"""

from collections.abc import Sequence

from actors.model.checkpoint import Checkpoint
from actors.training.pretrained.held_out import HeldOut
from actors.training.rows.targets import Targets
from conf.engine import EngineConfig

_MOST_IMAGES, _MOST_TOKENS = 16, 8


def learn_spelling(targets: Targets, checkpoint: Checkpoint, images: HeldOut, engine: EngineConfig) -> None:
    """Set how `targets` spells texts, as the checkpoint does at full depth for the first few of some images.

    Nothing is decoded where both spellings are the same tokens.
    """
    few = images.first(_MOST_IMAGES)
    texts = [text for row in few.rows if row.reference is not None for text in row.reference.texts]
    if all(len(set(_spellings(text, checkpoint))) == 1 for text in texts):
        return
    beginnings = engine.generation.model_copy(update={"max_new_tokens": _MOST_TOKENS})
    brief = engine.at_full_depth().model_copy(update={"generation": beginnings})
    said = few.said(few.engine(checkpoint, targets, brief), targets)
    targets.leading_space = _prefers_space([completion.token_ids for completion in said], checkpoint)


def _prefers_space(said: Sequence[Sequence[int]], checkpoint: Checkpoint) -> bool:
    """Return whether more outputs begin as texts with a space before them do than as those without one."""
    votes = 0
    for token_ids in said:
        said_ids = tuple(token_ids)
        if said_ids[:1] == (checkpoint.config.generation.forced_bos_id,):
            said_ids = said_ids[1:]
        plain, spaced = _spellings(checkpoint.codec.decode(said_ids), checkpoint)
        first = said_ids[:1]
        votes += (spaced[:1] == first) - (plain[:1] == first)
    return votes > 0


def _spellings(text: str, checkpoint: Checkpoint) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the tokens of a text, and of the text with a space before it."""
    return checkpoint.codec.encode(text), checkpoint.codec.encode(" " + text)
