"""What a request must look like."""

from actors.engine.request import Request
from conf.model import ModelConfig
from conf.resolve import check_token_ids


def check_request(request: Request, model: ModelConfig, max_prefix: int) -> None:
    """Raise ValueError, in one sentence, when the engine cannot run it."""
    _check_pixels(request, model)
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


def _check_pixels(request: Request, model: ModelConfig) -> None:
    pixels, plan = request.pixels_HWC, model.plan
    dtype = "uint8" if plan.patches is None else "float32"
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != dtype:
        raise ValueError(f"pixels must be {dtype} with shape (height, width, 3), got {pixels.dtype} {pixels.shape}")
    if plan.patches is not None:
        grid = tuple(side / plan.patches.patch for side in pixels.shape[:2])
        if not all(side.is_integer() and side >= 1 for side in grid) or grid[0] * grid[1] > plan.patches.max_patches:
            raise ValueError(f"pixels must be a grid of at most {plan.patches.max_patches} patches, got {pixels.shape}")
    elif plan.shape is not None and pixels.shape[:2] != plan.shape:
        raise ValueError(f"pixels must have shape {(*plan.shape, 3)}, got {pixels.shape}")
