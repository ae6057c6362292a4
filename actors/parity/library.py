"""The library's side: its own processor and `generate`, called as its documentation does, one picture at a time."""

import warnings
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageFont

from actors.model.interop.families import configuration, family_of
from actors.model.interop.florence2_remote import is_remote
from actors.model.interop.model_directory import read_source
from actors.model.word_boxes import split_words
from actors.parity.answer import Answer
from conf.engine import PROMPT_PLACE
from conf.errors import UserError
from conf.json_file import read_object
from conf.source import DEFAULT_PROMPT
from pipeline.unexpected_errors import one_line

VISION_INPUTS = ("pixel_values", "flattened_patches")
_LONGEST = 300  # characters of a reason: the library lists all the models it has


class Library:
    """A model directory of `transformers`, loaded by the library alone.

    Outputs begin with `decoder_prefix`, as engine.generation has it, or else with `own_prefix`, as the checkpoint has
    it; `font_file` draws headers.
    """

    def __init__(
        self,
        path: str | Path,
        max_new_tokens: int,
        *,
        decoder_prefix: str = "",
        own_prefix: str = "",
        font_file: str | None = None,
    ) -> None:
        """UserError, in one sentence, where the library cannot load the directory."""
        if is_remote(read_object(Path(path) / "config.json") or {}):
            raise UserError(
                f"the library reads {str(path)!r} only by code that comes with it, which is not run; compare with the "
                "same model from florence-community"
            )
        source = read_source(path)
        self.model_type = str(source.config["model_type"])
        family, hf = family_of(source.config), configuration(source.config)
        self._reads_images = family.reads_images
        self._captions = family.model_class == "BlipForConditionalGeneration"
        self._max_new_tokens, self._font_file = max_new_tokens, font_file
        self._decoder_prefix, self._own_prefix = decoder_prefix, own_prefix
        import transformers

        local = {"local_files_only": True, "trust_remote_code": False}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model_class = getattr(transformers, family.model_class)
                self.model, report = model_class.from_pretrained(
                    str(path), config=hf, dtype=torch.float32, output_loading_info=True, **local
                )
                self.model.eval()
                self.image_processor, self.tokenizer, self.processor = self._processors(str(path), local)
        except Exception as error:  # the library raises many kinds
            raise UserError(f"the library cannot load {str(path)!r}: {one_line(error)[:_LONGEST]}") from None
        if missing := sorted(name for name in report["missing_keys"] if not family.is_ignored(name)):
            raise UserError(f"the library finds no tensor {missing[0]!r} in {str(path)!r} ({len(missing)} missing)")

    def _processors(self, path: str, local: dict[str, Any]) -> tuple[Any, Any, Any]:
        """Return the image processor, the tokenizer and the processor that joins them, as far as the family has them.

        A vision-encoder-decoder has no processor of its own: its pictures and prompts are made ready one by one.
        """
        from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer

        if not self._reads_images:
            return None, AutoTokenizer.from_pretrained(path, **local), None
        if self.model_type == "vision-encoder-decoder":
            begins = self._decoder_prefix or self._own_prefix
            tokenizer = AutoTokenizer.from_pretrained(path, **local) if begins else None
            return AutoImageProcessor.from_pretrained(path, **local), tokenizer, None
        processor = AutoProcessor.from_pretrained(path, **local)
        if getattr(processor.image_processor, "is_vqa", False):
            draw_headers_in(processor.image_processor, self._font_file)
        if self.model_type == "udop":  # words are the prompt's; Tesseract's would be read in their place
            processor.image_processor.apply_ocr = False
        return processor.image_processor, processor.tokenizer, processor

    @property
    def reads_image(self) -> str:
        """Name what makes its pictures ready."""
        return "nobody" if self.image_processor is None else type(self.image_processor).__name__

    def inputs(self, image: Image.Image, prompt: str) -> dict[str, Any]:
        """Return what `generate` takes for one picture and prompt."""
        if not self._reads_images:
            return dict(self.tokenizer(prompt, return_tensors="pt"))
        if self.model_type == "vision-encoder-decoder":
            return {**self.image_processor(image, return_tensors="pt"), **self._begun(prompt)}
        if self.model_type == "udop":
            question, words = split_words(prompt)
            texts, boxes = [word.text for word in words], [list(word.box) for word in words]
            # As a batch of one: alone, it takes a question without words for words.
            return dict(self.processor(image, [question], text_pair=[texts], boxes=[boxes], return_tensors="pt"))
        if self.model_type == "pix2struct":
            # The processor's own default of 2,048 patches would win over its file.
            options = {"max_patches": self.image_processor.max_patches, "return_tensors": "pt"}
            if self.image_processor.is_vqa:
                options["text"] = prompt
            return {**self.processor(images=image, **options), **self._begun(prompt)}
        if self.model_type == "t5gemma2" and self.processor.boi_token not in prompt:
            prompt = self.processor.boi_token + prompt  # it refuses images that no prompt asks for
        if self._captions:
            prompt = self._beginning(prompt)
        return dict(self.processor(images=image, text=prompt or None, return_tensors="pt"))

    def _beginning(self, prompt: str) -> str:
        """Return what an output goes on from; a caption that is asked for in the default words goes on from nothing."""
        if not self._decoder_prefix and self._own_prefix == PROMPT_PLACE and prompt == DEFAULT_PROMPT:
            return ""
        return (self._decoder_prefix or self._own_prefix).replace(PROMPT_PLACE, prompt)

    def _begun(self, prompt: str) -> dict[str, Any]:
        """Return the beginning of an output for `generate`, which puts the start token before it; nothing for none."""
        if not (beginning := self._beginning(prompt)):
            return {}
        given = self.tokenizer(beginning, add_special_tokens=False, return_tensors="pt")
        return {"decoder_input_ids": given.input_ids}

    @torch.inference_mode()
    def answer(self, image: Image.Image, prompt: str) -> Answer:
        """Return what `generate` says, greedily; raises whatever the library raises for this picture."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            inputs = self.inputs(image, prompt)
            done = self.model.generate(
                **inputs, max_new_tokens=self._max_new_tokens, do_sample=False, num_beams=1,
                return_dict_in_generate=True, output_scores=True,
            )  # fmt: skip
        steps = len(done.scores)
        said = done.sequences[0, done.sequences.shape[1] - steps :].tolist()
        seen = next((inputs[name][0] for name in VISION_INPUTS if name in inputs), None)
        if seen is not None and "flattened_patches" in inputs:
            seen = seen[inputs["attention_mask"][0].bool()]  # without the padding up to max_patches
        scores_TV = torch.stack([score[0] for score in done.scores])
        return Answer(tuple(said), seen, scores_TV.float().log_softmax(-1))


def draw_headers_in(image_processor: Any, font_file: str | None) -> None:
    """Have headers drawn in a typeface of ours, by default Pillow's own: the library would download Arial."""
    font = ImageFont.load_default(10)
    assert isinstance(font, ImageFont.FreeTypeFont)
    font_bytes = bytes(font.font_bytes) if font_file is None else Path(font_file).read_bytes()
    render = image_processor.render_header
    image_processor.render_header = lambda image, header, **_: render(image, header, font_bytes=font_bytes)
