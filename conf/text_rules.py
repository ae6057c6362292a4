"""How a prompt becomes what a checkpoint reads, and its tokens a text. Nothing here imports torch."""

from typing import Literal

from pydantic import Field

from conf.section import Section

CAPTION_TASK = "<CAPTION>"  # of models whose prompts are tasks (Florence-2)


class OutputStructure(Section):
    """What an output's text says besides words: places in the image, named values."""

    kind: Literal["florence2", "donut"] = Field(
        description="florence2: phrases with `<loc_52>` for boxes and polygons; donut: `<s_name>value</s_name>`."
    )
    banned_phrases: tuple[str, ...] = Field((), description="florence2: what grounding a caption leaves out.")


class ImageTokens(Section):
    """How an image stands among the tokens of a prompt: two newlines, begin, image, end, two newlines.

    All of that takes the place of the begin token of a prompt, or comes before a prompt that has none. The encoder puts
    as many image tokens as it has for the one image token here.
    """

    begin_id: int
    image_id: int
    end_id: int


class TextRules(Section):
    """How a prompt becomes what the encoder reads, and the decoder's tokens a text."""

    prompt: Literal["tokens", "bytes", "none"] = Field(
        "tokens", description="bytes: the model draws the text itself; none: the encoder reads no prompt."
    )
    words: bool = Field(False, description="Prompt tokens carry places; a prompt may bring words found in the image.")
    qformer: bool = Field(
        False, description="The prompt is also read by a Q-Former, by a tokenizer of its own (InstructBLIP)."
    )
    leading_space: bool = Field(True, description="Put a space before a text, so that a word has one spelling.")
    prefix_ids: tuple[int, ...] = Field((), description="Tokens before every prompt.")
    suffix_ids: tuple[int, ...] = Field((), description="Tokens after every prompt.")
    words_end_ids: tuple[int, ...] = Field(
        (),
        description="Tokens after the words; where there are any, they and suffix_ids have the box of the far corner.",
    )
    image: ImageTokens | None = None
    tasks: dict[str, str] = Field({}, description="Task token -> prompt that stands for it; {input} is what follows.")
    decoder_prefix: str = Field(
        "", description="What outputs begin with where engine.generation says nothing; {prompt} is the prompt in it."
    )
    keep_special_tokens: bool = Field(
        False, description="Special tokens are part of an output's text, but for those that start, end or pad it."
    )
    structure: OutputStructure | None = Field(None, description="How the column `fields` is read from an output.")


def longest_prompt(max_prompt_tokens: int) -> int:
    """Return how many characters of a prompt are tokenised at most, for a model that reads so many tokens of it.

    Generous: a token of text has about four, but runs of spaces and long words have many.
    """
    return max(100_000, 64 * max_prompt_tokens)
