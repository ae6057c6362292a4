"""What is learned of a row: the tokens that an engine would say; nothing of prompts that no run can ask."""

from typing import Any

import numpy as np

from actors.engine.drain import drain
from actors.engine.request import Request
from actors.model.checkpoint import Checkpoint
from actors.model.tokenizer import TextCodec, train_tokenizer
from actors.training.pretrained.held_out import HeldOut
from actors.training.rows.row import ImageRows, Row
from actors.training.rows.targets import Targets
from conf.engine import EngineConfig
from conf.model import GenerationDefaults
from conf.rows import TargetConfig, TaskConfig
from conf.schema import PreprocessConfig
from conf.source import PromptConfig
from conf.text_rules import TextRules
from pipeline.source.references import Kind, Reference
from tests.actors.engine.tiny import tiny_model

TEXTS = ["a cat", "a dog"]
FORCED = 5


def make_targets(prefix: str = "", **rules: Any) -> Targets:
    """Of a model whose engine says a fixed token first, as Florence-2, BART and mBART do."""
    model = tiny_model("pre_rms", vocab_size=300)
    config = model.config.model_copy(
        update={"text": TextRules(**rules), "generation": GenerationDefaults(forced_bos_id=FORCED)}
    )
    model.config = config
    codec = TextCodec.of(train_tokenizer(TEXTS, 300), config)
    task = TaskConfig(prompt=PromptConfig(template="what?"), target=TargetConfig(field="caption"))
    return Targets(Checkpoint(model, codec, config, ""), [task], [None], 8, prefix)


def make_row(prompt: str = "a") -> Row:
    return Row("shard", "key", "key", 0, 0, prompt, Reference(Kind.CAPTION, tuple(TEXTS)))


def test_labels_begin_with_the_token_that_is_forced_first() -> None:
    targets = make_targets()
    row, codec, eos = targets.label(make_row()), targets.checkpoint.codec, targets.checkpoint.config.eos_id
    assert isinstance(row, Row)
    assert row.targets == tuple((FORCED, *codec.encode(text), eos)[:8] for text in TEXTS)


def test_nothing_is_forced_after_a_prefix() -> None:
    targets = make_targets("a")
    row, codec, eos = targets.label(make_row()), targets.checkpoint.codec, targets.checkpoint.config.eos_id
    assert isinstance(row, Row)
    assert row.targets == tuple((*codec.encode(text), eos)[:8] for text in TEXTS)


def test_prompts_that_no_run_can_ask_are_left_out_by_their_reason() -> None:
    targets = make_targets(tasks={"<CAPTION>": "a"})
    most = targets.checkpoint.config.encoder.max_prompt_tokens
    assert isinstance(targets.label(make_row("<CAPTION>")), Row)
    assert targets.label(make_row("<CAPTION> of what")) == "bad_prompt"
    assert targets.label(make_row("a cat " * most)) == "prompts_too_long"


def test_held_out_rows_are_decoded_for_as_long_as_the_decoder_has_positions() -> None:
    targets, row = make_targets("a cat"), make_row()
    held_out = HeldOut((ImageRows(b"", (row,)),), targets.checkpoint.config.plan, PreprocessConfig())
    generation = {"max_new_tokens": targets.checkpoint.config.decoder.max_positions, "decoder_prefix": "a cat"}
    config = EngineConfig.model_validate({"schedule": "full", "generation": generation})
    engine = held_out.engine(targets.checkpoint, targets, config)
    request = Request(0, np.zeros((32, 32, 3), np.uint8), (1,), prefix_ids=targets.prefix_ids(row))
    (completion,) = drain(engine, [request])
    assert completion.token_ids[0] != FORCED
