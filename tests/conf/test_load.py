"""One clear sentence for every mistake in a configuration, naming the key."""

import itertools
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from conf.bench import BenchConfig, Sweep
from conf.engine import EngineConfig, Gate, TuningConfig
from conf.errors import UserError
from conf.evaluation import CalibrateConfig, EvaluateConfig
from conf.load import load_config
from conf.pretrained import PretrainedConfig
from conf.schema import JobConfig
from conf.training import TrainConfig
from conf.vqa import VqaConfig

GOOD = {"source": {"paths": ["a.tar"]}, "model": {"checkpoint": "c"}, "output": {"path": "o"}}
ROOT = Path(__file__).parents[2]


@pytest.fixture
def good_file(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    return path


def test_overrides_are_yaml_and_later_ones_win(good_file: Path) -> None:
    config = load_config(
        good_file,
        [
            "engine.exits=[2, 4, 8]",
            "engine.gate=softmax_diff",
            "source.chunk_rows=1",
            "source.chunk_rows=64",
            "model.num_threads=null",
            "source.prompt.template=what is this?",
            "cost.date='2026-01-31'",
        ],
        JobConfig,
    )
    assert config.engine.exits == (2, 4, 8)
    assert config.engine.gate is Gate.SOFTMAX_DIFF
    assert config.source.chunk_rows == 64
    assert config.source.prompt.template == "what is this?"
    assert config.cost.date == "2026-01-31"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("{question}", "{question}"),
        ("Question: {question} Answer:", "Question: {question} Answer:"),
        ("is this #1? yes or no # say", "is this #1? yes or no # say"),
        ("'{question}'", "{question}"),
        ('"two\\nlines"', "two\nlines"),
        ('"yes" or "no"?', '"yes" or "no"?'),
        ("[x]", "[x]"),
        ("42", "42"),
        ("yes", "yes"),
        ("", None),
        ("null", None),
    ],
)
def test_a_text_is_taken_as_it_is_unless_it_is_quoted(good_file: Path, written: str, meant: str | None) -> None:
    config = load_config(good_file, [f"source.prompt.list_field={written}"], JobConfig)
    assert config.source.prompt.list_field == meant
    if meant is not None:
        assert load_config(good_file, [f"source.prompt.template={written}"], JobConfig).source.prompt.template == meant


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("engine.slots=3", "unknown key 'engine.slots', did you mean 'engine.num_slots'?"),
        ("nonsense=3", "unknown key 'nonsense'"),
        ("engine.exits=[6, 3]", "engine: exits must be increasing, got [6, 3]"),
        ("engine.num_slots=0", "engine.num_slots: Input should be greater than or equal to 1, got 0"),
        ("engine.gate=magic", "engine.gate: Input should be"),
        ("actors.num_actors=many", "actors.num_actors: "),
        ("source.paths=[]", "source.paths: "),
        ("source=7", "source: Input should be a valid dictionary"),
        ("output.max_error_fraction=2", "output.max_error_fraction: Input should be less than or equal to 1, got 2"),
    ],
)
def test_a_wrong_value_is_one_sentence_with_the_key(good_file: Path, override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(good_file, [override], JobConfig)
    assert str(caught.value).startswith(f"{good_file}: {message}")
    assert "\n" not in str(caught.value)


# Nine lines that stand for a billion words: whatever copies or prints them whole takes gigabytes.
BILLION_LAUGHS = "a: &a [lol,lol,lol,lol,lol,lol,lol,lol,lol,lol]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n" for before, name in itertools.pairwise("abcdefghi")
)


@pytest.mark.parametrize("override", ["engine", "=3", "a..b=1", "source.paths.x=1", "engine.exits=[1"])
def test_a_malformed_override_is_one_sentence(good_file: Path, override: str) -> None:
    with pytest.raises(UserError, match=r"^--set "):
        load_config(good_file, [override], JobConfig)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "must hold keys and values"),
        ("a: [1", "is not valid YAML"),
        ("", "missing key 'source'"),
        ("source: " + "[" * 50_000, "is not valid YAML: it is nested too deeply"),
        ("source: " + "{a: " * 50_000, "is not valid YAML: it is nested too deeply"),
        ("cost: {date: 2026-99-99}", "is not valid YAML: month must be in"),
        ("source: {chunk_rows: " + "9" * 5000 + "}", "is not valid YAML: Exceeds the limit"),
        ("source: &a [*a]", "source: "),
        (BILLION_LAUGHS, "unknown key 'a'"),
        (f"{BILLION_LAUGHS}source: *i", "unknown key 'a'"),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_config(path, [], JobConfig)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(UserError, match=r"configuration file not found: nowhere\.yaml"):
        load_config("nowhere.yaml", [], JobConfig)


def test_without_a_file_everything_comes_from_overrides() -> None:
    config = load_config(None, ["source.paths=[a]", "model.checkpoint=c", "output.path=o"], JobConfig)
    assert config.source.paths == ("a",)


def test_the_shipped_configuration_is_valid() -> None:
    load_config(ROOT / "conf" / "caption.yaml", [], JobConfig)


@pytest.mark.parametrize(
    "schema", [JobConfig, VqaConfig, TrainConfig, PretrainedConfig, EvaluateConfig, CalibrateConfig, BenchConfig, Sweep]
)
def test_every_field_says_what_it_is(schema: type[BaseModel]) -> None:
    for name, field in schema.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            test_every_field_says_what_it_is(field.annotation)
        else:
            assert field.description, f"{schema.__name__}.{name}"


@pytest.mark.parametrize("name", TuningConfig.model_fields)
def test_what_has_moved_to_tuning_is_told_from_its_old_name(good_file: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"unknown key 'engine.{name}', did you mean 'engine.tuning.{name}'"):
        load_config(good_file, [f"engine.{name}=1"], JobConfig)


def test_a_record_of_the_version_before_tuning_is_read() -> None:
    before = {"num_slots": 8, "encode_batch": 4, "cross": "absorbed", "generation": {"max_new_tokens": 9}}
    now = EngineConfig.from_record(before)
    assert (now.num_slots, now.tuning.encode_batch, now.tuning.cross.value) == (8, 4, "absorbed")
    assert EngineConfig.from_record(now.model_dump(mode="json")) == now
