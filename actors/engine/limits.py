"""What a request must look like."""

from actors.engine.request import Request
from conf.model import ModelConfig
from conf.resolve import check_token_ids


def check_request(request: Request, model: ModelConfig, max_prefix: int) -> None:
    """Raise ValueError, in one sentence, when the engine cannot run it."""
    shape = (model.image_size, model.image_size, 3)
    if request.pixels_HWC.shape != shape:
        raise ValueError(f"pixels must have shape {shape}, got {request.pixels_HWC.shape}")
    longest = model.encoder.max_prompt_tokens
    if not 1 <= len(request.prompt_ids) <= longest:
        raise ValueError(f"a prompt must have 1 to {longest} tokens, got {len(request.prompt_ids)}")
    if model.text.prompt == "tokens" and not (
        model.text.words or model.text.qformer
    ):  # there an id is more than a token
        check_token_ids("a prompt", request.prompt_ids, model)
    check_token_ids("a decoder prefix", request.prefix_ids or (), model)
    if len(request.prefix_ids or ()) > max_prefix:
        raise ValueError(f"a decoder prefix must have at most {max_prefix} tokens, got {len(request.prefix_ids or ())}")
    if request.max_new_tokens is not None and request.max_new_tokens < 1:
        raise ValueError(f"max_new_tokens of a request must be at least 1, got {request.max_new_tokens}")
