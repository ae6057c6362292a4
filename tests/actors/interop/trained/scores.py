"""How good a model of the library is: what its own `generate` says of pictures it has not learned from."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer

from tests.actors.interop.trained.examples import Examples, Text, prefix_ids

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
