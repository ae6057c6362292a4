"""Donut from prompt to text and to JSON: what the library gives for its own decoder_input_ids."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.models.donut.processing_donut import DonutProcessor

from actors.backend import load_backend
from actors.engine.drain import drain
from actors.engine.request import Completion, Request
from conf.checkpoint_files import read_model_config
from conf.engine import EngineConfig
from conf.model import ModelConfig
from conf.schema import ModelSection
from jobs.cli import main
from tests.actors.interop.sources import CASES, STEPS, make_requests, make_source
from tests.effort import effort

CASE = CASES["donut"]
VALUES = [
    "<sep/>",
    "<s_iitcdip>",
    "<s_synthdog>",
    *(f"<{end}s_{name}>" for name in "abcdefghijklmnop" for end in ("", "/")),
]
QUESTION = ["<s_docvqa>", "<s_question>", "</s_question>", "<s_answer>", "</s_answer>"]
PROMPTS = ["w4 w5", "w6", "", "w7 w8 w9 w10", "w4", "w11 w12"]


def make_donut(path: Path, tags: list[str], start: str | None, seed: int) -> tuple[Any, Any]:
    """A directory of a random model whose tokenizer has these tags, and its library model and tokenizer."""
    theirs = make_source("donut", path, seed)
    words = {"<s>": 0, "<pad>": 1, "</s>": 2, **{f"w{i}": i for i in range(3, 50)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w3"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.WhitespaceSplit(), decoders.Fuse()
    tokenizer.add_special_tokens(tags)
    tokenizer.save(str(path / "tokenizer.json"))
    start_id = 0 if start is None else tokenizer.token_to_id(start)
    for name in ("config.json", "generation_config.json"):
        settings = json.loads((path / name).read_text())
        (path / name).write_text(json.dumps({**settings, "decoder_start_token_id": start_id}))
    theirs.config.decoder_start_token_id = theirs.generation_config.decoder_start_token_id = start_id
    return theirs, PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def convert(source: Path, capsys: pytest.CaptureFixture[str]) -> tuple[ModelConfig, str]:
    assert main(["convert", str(source), str(source / "ours")]) == 0
    return read_model_config(source / "ours"), capsys.readouterr().out


def ours_says(
    source: Path, prompts: list[str], work: list[Request], **generation: Any
) -> tuple[list[Completion], list[str], list[Any]]:
    settings = {"schedule": "full", "generation": {"max_new_tokens": STEPS, **generation}}
    backend = load_backend(ModelSection(checkpoint=str(source / "ours")), EngineConfig.model_validate(settings), 1)
    requests = [
        replace(request, prompt_ids=backend.encode_prompt(prompt), prefix_ids=backend.encode_prefix(prompt))
        for request, prompt in zip(work, prompts, strict=True)
    ]
    done = drain(backend.make_engine(), requests)
    fields = [
        json.loads(backend.read_fields(completion.token_ids, prompt, (9, 9)) or "null")
        for request, completion, prompt in zip(requests, done, prompts, strict=True)
    ]
    return done, [backend.decode_tokens(completion.token_ids) for completion in done], fields


def theirs_says(theirs: Any, tokenizer: Any, beginnings: list[str | None], work: list[Request]) -> list[list[int]]:
    """Sequences as generate gives them, what they begin with included."""
    found = []
    for request, beginning in zip(work, beginnings, strict=True):
        inputs = CASE.inputs(theirs, [request])
        if beginning is not None:
            inputs["decoder_input_ids"] = tokenizer(beginning, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.no_grad():
            found.append(theirs.generate(**inputs, max_new_tokens=STEPS, do_sample=False)[0].tolist())
    return found


def json_of(tokenizer: Any, sequence: list[int]) -> Any:
    """As Donut's documentation has it."""
    text = tokenizer.decode(sequence).replace("</s>", "").replace("<pad>", "")
    text = re.sub(r"<.*?>", "", text, count=1).strip()
    return DonutProcessor.__new__(DonutProcessor).token2json(text, added_vocab=tokenizer.get_added_vocab())


def said(sequence: list[int], given: int) -> tuple[int, ...]:
    ids = sequence[given:]
    return tuple(ids[: ids.index(2)] if 2 in ids else ids)


@pytest.mark.parametrize("configured", [True, False])
def test_a_task_is_what_outputs_begin_with(configured: bool, tmp_path: Path, capsys: Any) -> None:
    tags, distinct = [*VALUES, "<s_cord-v2>"], set()
    for seed in range(effort(2, 5)):
        source, work = tmp_path / str(seed), make_requests(CASE, 4, seed)
        theirs, tokenizer = make_donut(source, tags, "<s_cord-v2>" if configured else None, seed)
        config, out = convert(source, capsys)
        assert config.text.decoder_prefix == ("" if configured else "<s_cord-v2>")
        assert ("outputs begin with <s_cord-v2>" in out) == (not configured)
        expected = theirs_says(theirs, tokenizer, ["<s_cord-v2>"] * 4, work)
        for generation in ({}, {"decoder_prefix": "<s_cord-v2>"}):
            done, texts, fields = ours_says(source, ["describe the image"] * 4, work, **generation)
            assert [completion.token_ids for completion in done] == [said(sequence, 1) for sequence in expected]
            assert fields == [json_of(tokenizer, sequence) for sequence in expected]
        markers = "<pad>|<s_cord-v2>" if configured else "<pad>|<s>"
        assert texts == [re.sub(markers, "", tokenizer.decode(list(said(sequence, 1)))) for sequence in expected]
        distinct |= set(texts)
    assert len(distinct) > 3
    assert any("<" in text for text in distinct)


def test_a_question_is_asked_as_the_tokenizer_has_it(tmp_path: Path, capsys: Any) -> None:
    theirs, tokenizer = make_donut(tmp_path, [*VALUES, *QUESTION], None, 1)
    config, _ = convert(tmp_path, capsys)
    template = "<s_docvqa><s_question>{prompt}</s_question><s_answer>"
    assert config.text.decoder_prefix == template
    work = make_requests(CASE, len(PROMPTS), 1)
    asked = [template.format(prompt=prompt) for prompt in PROMPTS]
    expected = theirs_says(theirs, tokenizer, asked, work)
    given = [len(tokenizer(text, add_special_tokens=False).input_ids) for text in asked]
    done, texts, fields = ours_says(tmp_path, PROMPTS, work)
    answers = [said(sequence, count) for sequence, count in zip(expected, given, strict=True)]
    assert [completion.token_ids for completion in done] == answers
    assert texts == [tokenizer.decode(list(answer), skip_special_tokens=True) for answer in answers]
    assert fields == [json_of(tokenizer, sequence) for sequence in expected]
    assert all("question" in found for found in fields if found)


@pytest.mark.parametrize(
    ("tags", "candidates"),
    [
        ([], ""),  # Nougat
        (["<s_menu>", "</s_menu>"], ""),
        (["<s_iitcdip>", "<s_synthdog>"], "<s_iitcdip>, <s_synthdog>"),
        ([*VALUES, "<s_first>", "<s_second>"], "<s_first>, <s_second>"),
    ],
)
def test_a_task_is_not_guessed(tags: list[str], candidates: str, tmp_path: Path, capsys: Any) -> None:
    make_donut(tmp_path, tags, None, 0)
    config, out = convert(tmp_path, capsys)
    assert (config.text.decoder_prefix, config.prefix_starts, config.start_id) == ("", True, 0)
    note = f"outputs start from token 0 alone; give a task as engine.generation.decoder_prefix, of {candidates}"
    assert note in out if candidates else "decoder_prefix" not in out
