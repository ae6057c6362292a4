"""Texts among the generation options become the token ids the engine wants."""

import gc
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from actors.backend import load_backend
from actors.engine.beam.beam_engine import BeamEngine
from actors.engine.engine import Engine
from actors.engine.request import Completion, Request
from actors.generation_texts import prefix_of, tokenized
from actors.model.blocks import DecoderLayer
from actors.model.checkpoint import save_checkpoint
from actors.model.tokenizer import TextCodec, train_tokenizer
from conf.engine import EngineConfig, GenerationConfig, Schedule
from conf.errors import UserError
from conf.schema import JobConfig, ModelSection
from jobs.caption import with_checkpoint
from tests.actors.engine.tiny import tiny_model


def codec() -> TextCodec:
    return TextCodec(train_tokenizer(["a red ball beside a blue box", "what is red? the ball"], 300))


def test_bad_words_are_banned_in_both_spellings() -> None:
    text = codec()
    ids = tokenized(GenerationConfig(bad_words=(" ball ",), bad_word_ids=((5,),)), text, 96).bad_word_ids
    assert ids[0] == (5,)
    assert {text.tokenizer.decode(list(word)) for word in ids[1:]} == {"ball", " ball"}
    with pytest.raises(UserError, match="must not be empty"):
        tokenized(GenerationConfig(bad_words=(" ",)), text, 96)


def test_a_prefix_is_the_same_for_all_or_depends_on_the_prompt() -> None:
    text = codec()
    fixed = GenerationConfig(decoder_prefix="a red")
    assert text.decode(tokenized(fixed, text, 96).prefix_ids) == "a red"
    assert prefix_of("what is red?", fixed, text) is None
    asked = GenerationConfig(decoder_prefix="{prompt} the")
    rooms = {positions: tokenized(asked, text, positions).max_prefix_tokens for positions in (40, 96, 110, 500)}
    assert rooms == {40: 32, 96: 32, 110: 46, 500: 64}  # beside 64 new tokens
    assert tokenized(asked, text, 96).prefix_ids == ()
    own = prefix_of("what is red?", asked, text)
    assert own is not None
    assert text.decode(own) == "what is red? the"
    assert tokenized(asked.model_copy(update={"max_prefix_tokens": 4}), text, 500).max_prefix_tokens == 4


def test_engines_do_not_take_texts() -> None:
    model = tiny_model()
    for generation in (GenerationConfig(bad_words=("a",)), GenerationConfig(decoder_prefix="a")):
        with pytest.raises(AssertionError, match="token ids first"):
            Engine(model, EngineConfig(schedule="full", generation=generation))


def test_the_backend_of_a_run_honours_them(tmp_path: Path) -> None:
    tokenizer: Tokenizer = codec().tokenizer
    model = tiny_model(seed=5)
    decoder = model.config.decoder.model_copy(update={"vocab_size": tokenizer.get_vocab_size()})
    config = model.config.model_copy(update={"decoder": decoder})
    fresh = type(model)(config)
    save_checkpoint(tmp_path, config, fresh.state_dict(), tokenizer)
    section = ModelSection(checkpoint=str(tmp_path), device="cpu")
    pixels = np.zeros((32, 32, 3), np.uint8)

    def said(**generation: object) -> tuple[int, ...]:
        engine = EngineConfig.model_validate({"schedule": "full", "generation": {"max_new_tokens": 3, **generation}})
        backend = load_backend(section, engine, 1)
        running = backend.make_engine()
        running.add(Request(0, pixels, backend.encode_prompt("what"), prefix_ids=backend.encode_prefix("what")))
        done: list[Completion] = []
        while not done:
            done = running.step()
        return done[0].token_ids

    def fitted(generation: GenerationConfig) -> EngineConfig:
        job = {"source": {"paths": ["a.tar"]}, "model": {"checkpoint": str(tmp_path)}, "output": {"path": "o"}}
        settings = EngineConfig(schedule=Schedule.FULL, generation=generation)
        return with_checkpoint(JobConfig.model_validate({**job, "engine": settings}))[0].engine

    def beams(num_beams: int) -> EngineConfig:
        generation = {"max_new_tokens": 3, "num_beams": num_beams}
        return EngineConfig.model_validate({"schedule": "full", "generation": generation})

    engine = GenerationConfig(max_new_tokens=20, decoder_prefix="a red ball beside a blue box")
    with pytest.raises(UserError, match=r"max_new_tokens=20 with a prefix of [0-9]+ tokens is more than the .* 24"):
        fitted(engine)
    assert fitted(engine.model_copy(update={"max_new_tokens": 4})).generation.decoder_prefix == engine.decoder_prefix
    with pytest.raises(UserError, match="must not be empty"):
        fitted(GenerationConfig(bad_words=("",)))

    def num_layers_in_memory() -> int:
        gc.collect()
        return sum(type(thing) is DecoderLayer for thing in gc.get_objects())

    before = num_layers_in_memory()
    small = EngineConfig.model_validate({"schedule": "full", "weights": "int8", "generation": {"max_new_tokens": 3}})
    backend = load_backend(section, small, 1)
    assert num_layers_in_memory() == before + config.decoder.num_layers  # the larger weights were let go
    assert backend.make_engine().has_work() is False

    plain = said()
    assert said(decoder_prefix="{prompt} is", max_prefix_tokens=6) != plain
    assert isinstance(load_backend(section, beams(3), 1).make_engine(), BeamEngine)
    assert isinstance(load_backend(section, beams(1), 1).make_engine(), Engine)
    assert len(said(num_beams=3)) <= 3
    word = tokenizer.decode([plain[0]])
    assert plain[0] not in said(bad_words=(word,))
