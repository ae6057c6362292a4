"""Draw a question above an image, as Pix2Struct's question answering expects (Lee et al. 2023, section 2.3)."""

import textwrap

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

FONT_SIZE, PADDING, CHARACTERS_PER_LINE = 36, 5, 80


def with_header(pixels_BXYC: Tensor, prompt_ids_BQ: Tensor, prompt_mask_BQ: Tensor) -> Tensor:
    """Return every image with its prompt (UTF-8 bytes as ids) above it, resized to the size it came in."""
    drawn = []
    for pixels, ids, mask in zip(pixels_BXYC.cpu().numpy(), prompt_ids_BQ.cpu(), prompt_mask_BQ.cpu(), strict=True):
        text = bytes(ids[mask].tolist()).decode("utf-8", errors="replace")
        drawn.append(np.asarray(_compose(Image.fromarray(pixels), text)))
    return torch.from_numpy(np.stack(drawn)).to(pixels_BXYC.device)


def _compose(image: Image.Image, text: str) -> Image.Image:
    header = _draw(text)
    width = max(header.width, image.width)
    header_height = round(header.height * width / header.width)
    canvas = Image.new("RGB", (width, header_height + round(image.height * width / image.width)), "white")
    canvas.paste(header.resize((width, header_height)), (0, 0))
    canvas.paste(image.resize((width, canvas.height - header_height)), (0, header_height))
    return canvas.resize(image.size, Image.Resampling.BILINEAR)


def _draw(text: str) -> Image.Image:
    wrapped = "\n".join(textwrap.wrap(text, CHARACTERS_PER_LINE))
    font = ImageFont.load_default(FONT_SIZE)
    left, top, right, bottom = ImageDraw.Draw(Image.new("RGB", (1, 1))).multiline_textbbox((0, 0), wrapped, font=font)
    image = Image.new("RGB", (int(right - left) + 2 * PADDING, int(bottom - top) + 2 * PADDING), "white")
    ImageDraw.Draw(image).multiline_text((PADDING - left, PADDING - top), wrapped, font=font, fill="black")
    return image
