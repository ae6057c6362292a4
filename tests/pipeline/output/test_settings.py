"""What may change between two runs of one output, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from conf.errors import UserError
from conf.schema import JobConfig
from pipeline.output.settings import NOT_CONTENT, check_settings, content_settings, save_settings
from pipeline.output.storage import Storage
from tests.pipeline.output.test_ledger import INFO, config


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"engine": {"thresholds": [0.5, 0.5]}}, "engine.thresholds"),
        ({"engine": {"exits": [2, 8]}}, "engine.exits"),
        ({"engine": {"kv": "copy"}}, "engine.kv"),
        ({"engine": {"generation": {"max_new_tokens": 5}}}, "engine.generation"),
        ({"source": {"paths": ["a.tar"], "prompt": {"template": "what?"}}}, "source.prompt"),
        ({"model": {"checkpoint": "c", "dtype": "bfloat16"}}, "model.dtype"),
        ({"engine": {"lossless": True}}, "engine.lossless"),
        ({"engine": {"threshold_decay": 4.0}}, "engine.threshold_decay"),
        ({"source": {"paths": ["a.tar"], "image_column": "jpg"}}, "source.image_column"),
        ({"source": {"paths": ["a.tar"], "uri_column": "url"}}, "source.uri_column"),
    ],
)
def test_settings_that_change_rows_are_refused_by_name(storage: Storage, sections: dict[str, object], key: str) -> None:
    save_settings(storage, content_settings(config(), INFO))
    with pytest.raises(UserError, match=rf"another configuration \({key}.* was .*output.path.*overwrite"):
        check_settings(storage, content_settings(config(**sections), INFO))


def test_settings_of_speed_place_and_price_may_change(storage: Storage) -> None:
    save_settings(storage, content_settings(config(), INFO))
    changed = config(
        source={"paths": ["b.tar"], "chunk_rows": 7},
        preprocess={"max_pixels": 7, "max_decode_bytes": 100_000_000},
        engine={"num_slots": 1, "tuning": {"max_wait_steps": 2}},
        actors={"num_actors": 2},
        cost={"price_per_hour": 1.0},
        output={"path": "elsewhere", "max_error_fraction": 0.1},
    )
    check_settings(storage, content_settings(changed, INFO))


def test_a_setting_that_counted_in_an_earlier_version_no_longer_does(storage: Storage) -> None:
    save_settings(storage, {**content_settings(config(), INFO), "preprocess.max_pixels": 64_000_000})
    check_settings(storage, content_settings(config(), INFO))


def test_a_folder_with_foreign_results_is_refused_and_an_empty_one_is_fine(storage: Storage) -> None:
    check_settings(storage, {})
    storage.write("results/x.parquet", b"")
    with pytest.raises(UserError, match="not of a run of this tool"):
        check_settings(storage, {})


def leaves(schema: type[BaseModel], prefix: str = "") -> list[str]:
    """Every field that is no section, by its dotted name."""
    names: list[str] = []
    for name, field in schema.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            names += leaves(inner, f"{prefix}{name}.")
        else:
            names.append(prefix + name)
    return names


VALID: dict[str, Any] = {  # these are checked against the checkpoint
    "engine.exits": (4, 8),
    "engine.thresholds": (0.1, 0.2),
}


def another(value: Any) -> Any:
    """A value that is not this one; where there is none so far, a small number is what most fields could take."""
    if isinstance(value, bool) or value is None:
        return 3 if value is None else not value
    if isinstance(value, int | float):
        return value / 2 or 1
    return [*value, "more"] if isinstance(value, tuple) else "another value"


def with_changed(values: BaseModel, name: str, value: Any) -> Any:
    first, _, rest = name.partition(".")
    inner = getattr(values, first)
    return values.model_copy(update={first: with_changed(inner, rest, value) if rest else value})


def value_of(values: Any, name: str) -> Any:
    for part in name.split("."):
        values = getattr(values, part)
    return values


@pytest.mark.parametrize("name", leaves(JobConfig))
def test_every_field_counts_unless_it_is_listed(name: str) -> None:
    """Also a field that is added tomorrow: its value is replaced by another one, and the settings must differ."""
    listed = any(name == out or name.startswith(f"{out}.") for out in NOT_CONTENT)
    base = config(engine={"exits": [2, 8], "thresholds": [0.5]} if name == "engine.exits" else {})
    changed = with_changed(base, name, VALID[name] if name in VALID else another(value_of(base, name)))
    assert (content_settings(changed, INFO) == content_settings(base, INFO)) == listed


def test_the_list_names_only_what_exists() -> None:
    names = leaves(JobConfig)
    for out in NOT_CONTENT:
        assert any(name == out or name.startswith(f"{out}.") for name in names), out


def test_an_output_begun_before_a_field_existed_had_its_default(storage: Storage) -> None:
    settings = content_settings(config(), INFO)
    older = {key: value for key, value in settings.items() if key != "engine.lossless"}
    save_settings(storage, older)
    check_settings(storage, settings)
    with pytest.raises(UserError, match=r"engine\.lossless was false, now true"):
        check_settings(storage, content_settings(config(engine={"lossless": True}), INFO))


def test_settings_on_storage_are_readable(storage: Storage) -> None:
    save_settings(storage, content_settings(config(), INFO))
    saved = json.loads(storage.read("_state/config.json"))
    assert saved["settings"]["engine.schedule"] == "pool"
