"""Which runs keep a guarantee, what is said where they do not, and how the audit is settled."""

from pathlib import Path
from typing import Any

import pytest

from conf.checkpoint_info import CheckpointInfo
from conf.errors import UserError
from conf.guarantee import FILE, Guarantee, write_guarantee
from conf.promise import as_guaranteed, guarantee_of, run_warnings, with_promise
from conf.resolve import resolve
from conf.schema import JobConfig
from tests.conf.test_resolve import model
from tests.pipeline.promise.test_watch import promise


def settled(guarantee: Guarantee | None, **sections: Any) -> tuple[JobConfig, CheckpointInfo]:
    values: dict[str, Any] = {
        "source": {"paths": ["a.tar"], "kind": "webdataset"}, "model": {"checkpoint": "c"}, "output": {"path": "o"}
    }  # fmt: skip
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    config, info = JobConfig.model_validate(values), CheckpointInfo(model(), "w", "a")
    engine = resolve(info.model, as_guaranteed(config, info, guarantee)).settings
    return with_promise(config.model_copy(update={"engine": engine}), info, guarantee)


def test_a_run_with_a_promise_is_audited_a_little_and_one_without_is_not() -> None:
    config, info = settled(promise())
    assert (config.audit.fraction, info.promise, info.unclaimed) == (0.01, promise(), None)
    assert run_warnings(config, info) == []
    config, info = settled(None)
    assert (config.audit.fraction, info.promise, info.unclaimed) == (None, None, None)
    assert settled(None, audit={"fraction": 0.25})[0].audit.fraction == 0.25  # how much differs, promised or not
    assert settled(promise(), audit={"fraction": 0})[0].audit.fraction is None


def test_full_depth_needs_neither_promise_nor_audit() -> None:
    for engine in ({"schedule": "full"}, {"lossless": True}, {"thresholds": [2.0, 2.0]}):
        audit = {"fraction": 0.5, "on_broken_promise": "stop"}
        config, info = settled(promise(), engine=engine, audit=audit)
        assert (config.audit.fraction, info.promise, info.unclaimed) == (None, None, None)


def test_what_is_settled_stays_so() -> None:
    config, info = settled(promise(), audit={"fraction": 0.5})
    assert with_promise(config, CheckpointInfo(info.model, "w", "a"), promise()) == (config, info)


@pytest.mark.parametrize(
    ("sections", "changes", "why"),
    [
        ({}, {"weights_sha256": "x"}, "other weights"),
        ({"engine": {"thresholds": [0.9, 0.7]}}, {}, "exits or thresholds are others"),
        ({"engine": {"exits": [4, 8]}}, {}, "exits or thresholds are others"),
        ({"engine": {"kv": "copy"}}, {}, "engine.kv=copy, it was tested with jit"),
        ({"engine": {"weights": "int8"}}, {}, "engine.weights=int8"),
        ({"engine": {"gate": "softmax_diff"}}, {}, "engine.gate=softmax_diff"),
        ({"engine": {"threshold_decay": 2.0}}, {}, "engine.threshold_decay=2.0"),
        ({"engine": {"schedule": "consensus"}}, {}, "engine.schedule=consensus"),
        ({"model": {"dtype": "bfloat16"}}, {}, "model.dtype=bfloat16"),
        ({"source": {"kind": "images"}}, {}, "source.kind=images, it was tested on webdataset"),
        ({}, {"prompts": ("what?", "why?")}, "'describe the image', it was tested with 'what\\?' and 'why\\?'"),
        ({"engine": {"generation": {"min_new_tokens": 2}}}, {}, "engine.generation.min_new_tokens=2"),
        ({"engine": {"generation": {"max_new_tokens": 70}}}, {}, "max_new_tokens=70, it was tested with 64"),
        ({"engine": {"generation": {"max_new_tokens": 9}}}, {"loss": "dissimilarity"}, "max_new_tokens=9"),
    ],
)
def test_a_guarantee_that_is_about_something_else_is_said_in_one_sentence_and_not_claimed(
    sections: dict[str, Any], changes: dict[str, Any], why: str
) -> None:
    config, info = settled(promise(**changes), **sections)
    assert (config.audit.fraction, info.promise) == (None, None)
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(info.unclaimed)
    (sentence,) = run_warnings(config, info)
    assert sentence.startswith(f"the guarantee in c/{FILE} is not claimed for this run: ")
    with pytest.raises(UserError, match=f"on_broken_promise=stop needs a promise .*{why}"):
        settled(promise(**changes), **sections, audit={"on_broken_promise": "stop"})


def test_shorter_outputs_keep_a_promise_of_equal_texts() -> None:
    assert settled(promise(), engine={"generation": {"max_new_tokens": 9}})[1].promise is not None


def test_an_exit_that_never_fires_is_none() -> None:
    guarantee = promise(thresholds=(2.0, 0.8), exits=(4, 8))
    assert settled(guarantee, engine={"exits": [4, 8], "thresholds": [0.8]})[1].promise == guarantee


@pytest.mark.parametrize(
    ("guarantee", "sections", "sentence"),
    [
        (None, {"audit": {"on_broken_promise": "full_depth"}}, "there is none: deed calibrate --risk makes one"),
        (promise(), {"audit": {"on_broken_promise": "stop", "fraction": 0}}, "audit.fraction is 0"),
        (None, {"engine": {"schedule": "consensus"}, "audit": {"fraction": 0.1}}, "rows wait for each other"),
    ],
)
def test_audits_that_could_not_do_what_they_are_for_are_refused(
    guarantee: Guarantee | None, sections: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        settled(guarantee, **sections)


def test_a_guarantee_that_is_named_brings_its_thresholds(tmp_path: Path) -> None:
    guarantee = promise(thresholds=(2.0, 0.6), exits=(4, 8))
    path = write_guarantee(guarantee, tmp_path / "mine.json")
    found = guarantee_of(JobConfig.model_validate(_config(path)).model)
    assert found == guarantee
    config, info = settled(found, model={"guarantee": str(path)})
    assert (config.engine.thresholds, info.promise) == ((2.0, 0.6), guarantee)
    _, info = settled(found, model={"guarantee": str(path)}, engine={"thresholds": [0.9, 0.5]})
    assert info.promise is None
    with pytest.raises(UserError, match="is about other weights than those of 'c'"):
        settled(promise(weights_sha256="x"), model={"guarantee": str(path)})


def test_a_guarantee_lies_in_its_checkpoint_or_there_is_none(tmp_path: Path) -> None:
    given = JobConfig.model_validate({**_config(None), "model": {"checkpoint": str(tmp_path)}}).model
    assert guarantee_of(given) is None
    write_guarantee(promise(), tmp_path)
    assert guarantee_of(given) == promise()
    with pytest.raises(UserError, match=r"is no file, and no folder with a guarantee\.json"):
        guarantee_of(JobConfig.model_validate(_config(tmp_path / "none.json")).model)
    (tmp_path / FILE).write_text("{}")
    with pytest.raises(UserError, match="is not valid: method"):
        guarantee_of(given)


def _config(path: Path | None) -> dict[str, Any]:
    model = {"checkpoint": "c", "guarantee": None if path is None else str(path)}
    return {"source": {"paths": ["a.tar"]}, "model": model, "output": {"path": "o"}}
