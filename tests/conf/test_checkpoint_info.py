"""A checkpoint is known, and found damaged, before any weights are loaded."""

import hashlib
import json
from pathlib import Path

import pytest

from conf.checkpoint_files import read_model_config, write_model_config
from conf.checkpoint_info import read_checkpoint_info
from conf.errors import UserError
from tests.integration.corpus import write_checkpoint


def test_a_checkpoint_is_read_without_loading_it(tmp_path: Path) -> None:
    found = read_checkpoint_info(str(write_checkpoint(tmp_path)))
    assert (found.model.image_size, found.model.exits, found.model.thresholds) == (32, (2, 4, 6, 8), (0.9, 0.9, 0.9))
    assert found.weights_sha256 == hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()


def test_settings_that_did_not_exist_when_an_output_was_begun_do_not_make_it_another_model(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path) / "config.json"
    before = read_checkpoint_info(str(tmp_path))
    # What the version of 2b88512 made of this file. Fields that came later are named in conf/checkpoint_info.py.
    assert before.architecture_sha256 == "5f965fabdec6c56a4a9c603ca8f6c52094be7de84fbcf376de1646399ecb52eb"
    path.write_text(json.dumps({**json.loads(path.read_text()), "text": {"keep_special_tokens": True}}))
    assert read_checkpoint_info(str(tmp_path)).architecture_sha256 != before.architecture_sha256


def test_points_lost_in_training_are_kept_and_do_not_make_it_another_model(tmp_path: Path) -> None:
    before = read_checkpoint_info(str(write_checkpoint(tmp_path)))
    for points in (1.25, None):
        write_model_config(tmp_path, before.model.model_copy(update={"points_lost": points}))
        assert read_model_config(tmp_path).points_lost == points
        assert read_checkpoint_info(str(tmp_path)).architecture_sha256 == before.architecture_sha256
    assert "points_lost" not in json.loads((tmp_path / "config.json").read_text())  # unknown to earlier versions


@pytest.mark.parametrize(
    ("shape", "digest"),  # as the version of 2b88512 had them
    [
        (None, "675118163c231f745dd102fc302b834df7b2c498b3d63d31712a33f2bc479108"),
        ([64, 32], "02bf22f767df4290abe868c611c55600096dfb107398b97ff0ede8f3ece6d7a6"),
    ],
)
def test_a_model_that_an_earlier_version_converted_is_the_same_model(
    tmp_path: Path, shape: list[int] | None, digest: str
) -> None:
    path = write_checkpoint(tmp_path) / "config.json"
    content, hf = json.loads(path.read_text()), {"d_model": 8}
    encoder = {"kind": "transformers", "model_type": "t5", "hf_config": hf, "image_shape": shape}
    path.write_text(json.dumps({**content, "encoder": encoder}))
    assert read_checkpoint_info(str(tmp_path)).architecture_sha256 == digest


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b"{", "is not readable"),
        ("config.json", b"[" * 200_000, "nested too deeply"),
        ("config.json", b'{"image_size": ' + b"9" * 5000 + b"}", "not readable JSON: Exceeds the limit"),
        ("config.json", b"\xff{}", "not readable JSON"),
        ("config.json", b"{}", "is not valid"),
        ("config.json", None, "has no config.json"),
        ("model.safetensors", None, "has no model.safetensors"),
        ("model.safetensors", b"", "not readable safetensors"),
        ("model.safetensors", b"\xff" * 100, "not readable safetensors"),
        ("model.safetensors", b"\x02\0\0\0\0\0\0\0{}extra", "have 15 bytes instead of 10"),
        ("model.safetensors", (200_000).to_bytes(8, "little") + b"[" * 200_000, "not readable safetensors"),
        ("tokenizer.json", b"not json", "not readable JSON"),
        ("tokenizer.json", b'{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_a_damaged_checkpoint_is_one_sentence(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = write_checkpoint(tmp_path) / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_checkpoint_info(str(tmp_path))
    assert "\n" not in str(caught.value)
