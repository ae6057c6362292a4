"""How Donut's outputs begin: with a task token of its tokenizer, in the place of a start token.

`<s_menu>` and `</s_menu>` stand around a value, `<s_cord-v2>`, which nothing closes, names a task, and a task that
answers questions goes on with the question.
"""

import re
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from actors.model.interop.family import OutputRules
from actors.model.interop.tokenizer_files import tokenizer_settings
from conf.engine import PROMPT_PLACE
from conf.text_rules import OutputStructure

_OF_PRETRAINING = ("<s_iitcdip>", "<s_synthdog>")  # every fine-tune has them still
_QUESTION = ("<s_question>", "</s_question>", "<s_answer>")
_NOUGAT = (  # of the same classes, with pages of Markdown in place of tags
    "a page on which the model repeats itself is not noticed as Nougat's own code does; engine.generation.loop_ngram "
    "cuts outputs that go on repeating",
    "the clean-up of Markdown after generation (post_process_generation) is not done",
)
_NAME = "engine.generation.decoder_prefix"


def output_rules(path: Path, hf: Any, tokenizer: Tokenizer | None, start_id: int) -> OutputRules:
    """Return the rules of a Donut; of other vision-encoder-decoders, that there are none.

    A task is believed where config.json starts outputs from it, or where the tokenizer has no other.
    """
    if "donut" not in str(hf.encoder.model_type):
        return OutputRules()
    added = {} if tokenizer is None else {t.content: i for i, t in tokenizer.get_added_tokens_decoder().items()}
    opening = [token for token in added if re.fullmatch("<s_[^>]+>", token)]
    if not opening:
        is_nougat = str(tokenizer_settings(path).get("tokenizer_class", "")).startswith("Nougat")
        return OutputRules(prefix_starts=True, notes=_NOUGAT if is_nougat else ())
    names = [token for token in opening if token.replace("<s_", "</s_", 1) not in added]
    tasks = [token for token in names if token not in _OF_PRETRAINING]
    start = next((token for token in names if added[token] == start_id), None)
    task = start or (tasks[0] if len(tasks) == 1 else None)
    prefix, asks = "" if task in (None, start) else str(task), all(token in added for token in _QUESTION)
    if task is not None and asks:
        prefix = f"{task}<s_question>{PROMPT_PLACE}</s_question><s_answer>"
    notes = []
    if prefix:
        notes.append(f"outputs begin with {prefix} as the tokenizer has one task; {_NAME} sets another beginning")
    elif task is None and names:
        notes.append(
            f"outputs start from token {start_id} alone; give a task as {_NAME}, of {', '.join(tasks or names)}"
        )
    return OutputRules(
        structure=OutputStructure(kind="donut"),
        keep_special_tokens=PROMPT_PLACE not in prefix,  # an answer is a word, other outputs are tags around words
        decoder_prefix=prefix,
        prefix_starts=True,
        notes=tuple(notes),
    )
