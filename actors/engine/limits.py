"""What an engine can take: lengths of outputs and prefixes, and what a request must look like."""

from collections.abc import Sequence

from actors.engine.request import Request
from actors.model.model import MultiExitModel
from conf.errors import UserError
from conf.model import ModelConfig
from conf.schema import GenerationConfig


def check_lengths(model: MultiExitModel, generation: GenerationConfig) -> int:
    """Return the longest prefix of an output, in tokens; UserError where the decoder has no positions for it all."""
    assert not generation.has_texts, "texts become token ids first: actors/engine_factory.py"
    prefix, longest = len(generation.prefix_ids), generation.longest_prefix
    if longest < prefix:
        raise UserError(f"the decoder's prefix has {prefix} tokens, max_prefix_tokens={longest} allows fewer")
    positions, limit = model.config.decoder.max_positions, generation.max_new_tokens
    try:
        _check_ids("the decoder's prefix", generation.prefix_ids, model.config)
    except ValueError as error:
        raise UserError(str(error)) from None
    if limit + longest > positions:
        with_prefix = f" with a prefix of {longest} tokens" if longest else ""
        raise UserError(f"max_new_tokens={limit}{with_prefix} is more than the model's {positions}")
    return longest


def check_request(request: Request, model: ModelConfig, max_prefix: int) -> None:
    """ValueError, in one sentence, when the engine cannot run it."""
    shape = (model.image_size, model.image_size, 3)
    if request.pixels_HWC.shape != shape:
        raise ValueError(f"pixels must have shape {shape}, got {request.pixels_HWC.shape}")
    longest = model.encoder.max_prompt_tokens
    if not 1 <= len(request.prompt_ids) <= longest:
        raise ValueError(f"a prompt must have 1 to {longest} tokens, got {len(request.prompt_ids)}")
    if model.text.prompt == "tokens" and not model.text.words:  # with words, an id is a token and a place
        _check_ids("a prompt", request.prompt_ids, model)
    _check_ids("a decoder prefix", request.prefix_ids or (), model)
    if len(request.prefix_ids or ()) > max_prefix:
        raise ValueError(f"a decoder prefix must have at most {max_prefix} tokens, got {len(request.prefix_ids or ())}")
    if request.max_new_tokens is not None and request.max_new_tokens < 1:
        raise ValueError(f"max_new_tokens of a request must be at least 1, got {request.max_new_tokens}")


def _check_ids(what: str, token_ids: Sequence[int], model: ModelConfig) -> None:
    """ValueError for the first id outside of the vocabulary: in a batch it would take its neighbours along."""
    size = model.decoder.vocab_size
    stranger = next((token_id for token_id in token_ids if not 0 <= token_id < size), None)
    if stranger is not None:
        raise ValueError(f"{what} has the token id {stranger}, the vocabulary's ids are 0 to {size - 1}")
