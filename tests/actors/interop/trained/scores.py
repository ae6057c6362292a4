"""How good a model of the library is: what its own `generate` says of pictures it has not learned from.

    python -m tests.actors.interop.trained.scores bart8 runs/bart8 'data/scenes-small/test/*.tar' --pictures 300

prints it by prompt, and of all questions.
"""

import argparse
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from actors.model.tokenizer import load_tokenizer
from tests.actors.interop.trained.examples import Examples, Text, prefix_ids, read_examples
from tests.actors.interop.trained.models import MODELS

MOST_NEW_TOKENS, AT_ONCE = 48, 64
Asked = tuple[int, Text]  # number of the picture, what it is asked and what is right


def generated(model: Any, examples: Examples, asked: Sequence[Asked], tokenizer: Tokenizer) -> list[str]:
    """Return what follows the prompt, greedily; only prompts of one length are generated from together."""
    start = model.generation_config.decoder_start_token_id
    prefixes = [prefix_ids(text.prompt, start, tokenizer) for _, text in asked]
    by_length: defaultdict[int, list[int]] = defaultdict(list)
    for place, prefix in enumerate(prefixes):
        by_length[len(prefix)].append(place)
    said = [""] * len(asked)
    for length, places in by_length.items():
        for first in range(0, len(places), AT_ONCE):
            some = places[first : first + AT_ONCE]
            with torch.no_grad():
                rows = model.generate(
                    **examples.batch([asked[place][0] for place in some]),
                    decoder_input_ids=torch.tensor([prefixes[place] for place in some]),
                    max_new_tokens=MOST_NEW_TOKENS, use_cache=True, do_sample=False, num_beams=1,
                )  # fmt: skip
            for place, row in zip(some, rows[:, length:].tolist(), strict=True):
                said[place] = tokenizer.decode(row, skip_special_tokens=True).strip()
    return said


def word_f1(said: str, true: str) -> float:
    a, b = Counter(said.split()), Counter(true.split())
    return 2 * (a & b).total() / max(1, a.total() + b.total())


def quality(said: Sequence[str], asked: Sequence[Asked]) -> tuple[float, float]:
    """Share that is right to the letter, and mean F1 of words; nan where nothing was asked."""
    pairs = [(text, right.target) for text, (_, right) in zip(said, asked, strict=True)]
    if not pairs:
        return float("nan"), float("nan")
    return sum(s == t for s, t in pairs) / len(pairs), sum(word_f1(s, t) for s, t in pairs) / len(pairs)


def score(model: Any, examples: Examples, tokenizer: Tokenizer, captions: int, questions: int) -> dict[str, float]:
    """Score the first so many captions and questions of every picture."""
    model.eval()
    found = {}
    for name, texts, most in (
        ("captions", examples.captions, captions), ("answers", examples.questions, questions)
    ):  # fmt: skip
        asked = [(i, text) for i, of_picture in enumerate(texts) for text in of_picture[:most]]
        exact, f1 = quality(generated(model, examples, asked, tokenizer), asked)
        found |= {f"{name}_exact": exact, f"{name}_f1": f1}
    model.train()
    return found


def main(arguments: list[str]) -> None:
    from transformers import AutoModelForImageTextToText

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=MODELS)
    parser.add_argument("model", type=Path)
    parser.add_argument("pictures_of", metavar="tars")
    parser.add_argument("--pictures", type=int, default=300)
    options = parser.parse_args(arguments)
    recipe, tokenizer = MODELS[options.name], load_tokenizer(options.model / "tokenizer.json")
    model = AutoModelForImageTextToText.from_pretrained(options.model, dtype=torch.float32).eval()
    with tempfile.TemporaryDirectory() as cache:
        examples = read_examples(
            options.pictures_of, recipe.processor(), Path(cache) / "inputs.pt", is_asked=recipe.is_asked
        ).first(options.pictures)
        asked = [(i, text) for i, texts in enumerate(examples.captions) for text in texts]
        said = generated(model, examples, asked, tokenizer)
        for prompt in sorted({text.prompt for _, text in asked}):
            some = [(s, a) for s, a in zip(said, asked, strict=True) if a[1].prompt == prompt]
            print(prompt or "captions", "exact {:.3f}, F1 {:.3f}".format(*quality(*zip(*some, strict=True))))
        print("all captions", "exact {:.3f}, F1 {:.3f}".format(*quality(said, asked)))
        asked = [(i, text) for i, texts in enumerate(examples.questions) for text in texts]
        print(
            "all questions",
            "exact {:.3f}, F1 {:.3f}".format(*quality(generated(model, examples, asked, tokenizer), asked)),
        )


if __name__ == "__main__":
    main(sys.argv[1:])
