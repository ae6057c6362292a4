"""The model card says what is known and nothing else, in Markdown that others' text cannot break."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from actors.training.pretrained.card import render_card, write_card
from actors.training.pretrained.record import RECORD_FILE, TrainingRecord
from conf.errors import UserError
from conf.licence import Licence, read_licence
from tests.actors.training.pretrained.records import record

NAN = float("nan")


def known_least() -> TrainingRecord:
    return record(
        model={"trained_parameters": None},
        source={"base_model": None, "licence": None, "licence_name": None, "licence_link": None},
        data={"training_rows": None, "test_rows": None, "left_out": [], "targets": []},
        training={"rates": {}, "loss_weights": None, "soft": None, "layer_dropout": None},
        hardware={"cpu": None, "seconds": NAN}, exits=None, early=None, guard=None, saving=None,
    )  # fmt: skip


def rows_of(page: str) -> dict[str, list[str]]:
    """Cells of all tables by their first one; every row of a table must have as many as its head."""
    rows: dict[str, list[str]] = {}
    for table in re.findall(r"(?:^\|.*\n?)+", page, re.MULTILINE):
        cells = [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.strip().splitlines()]
        assert len({len(row) for row in cells}) == 1, table
        assert set(cells[1]) == {"---"}
        rows |= {row[0]: row[1:] for row in (cells[0], *cells[2:])}
    return rows


def test_a_hub_reads_the_front_matter() -> None:
    data = ModelCard(render_card(record()), ignore_metadata_errors=False).data
    assert (data.license, data.license_name, data.license_link) == ("other", "our-terms", "source/LICENSE")
    assert (data.base_model, data.pipeline_tag) == ("pix2struct-receipts", "image-to-text")
    assert (data.library_name, data.tags) == ("deed-pipeline", ["early-exit"])
    assert data.datasets is None
    plain = ModelCard(render_card(record(), plain=True)).data
    assert (plain.library_name, plain.license_link, plain.tags) == ("transformers", "LICENSE", None)
    least = ModelCard(render_card(known_least())).data
    assert (least.license, least.base_model) == (None, None)


def test_the_licence_is_read_from_the_card_as_it_was_from_the_source(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "LICENSE").write_text("Terms of use: ask us.")
    write_card(tmp_path, record())
    assert read_licence(tmp_path) == Licence("other", "our-terms", "source/LICENSE")
    write_card(tmp_path, record(source={"licence": "mit", "licence_name": None, "licence_link": None}))
    assert read_licence(tmp_path) == Licence("mit", None, "source/LICENSE")


def test_every_fact_is_on_the_page() -> None:
    page = render_card(record())
    rows = rows_of(page)
    assert rows["model"] == ["pix2struct encoder; t5 decoder of 8 layers, width 192, 1,280 tokens"]
    assert rows["parameters"] == ["7.3 M, of which 2.1 M were trained"]
    assert rows["made from"] == ["`runs/converted`, weights with the SHA-256 `6bcb8af0`"]
    assert rows["licence"] == ["[our-terms](source/LICENSE)"]
    assert rows["data"] == ["parquet: `data/a.parquet`, `data/b.parquet`"]
    assert rows["images"] == ["12,000 (30,512 rows) to learn from, 200 to choose by, 200 (512 rows) to report on"]
    assert rows["left out"] == ["3 undecodable; 1 hidden file"]
    assert rows["learned"] == [
        "the model's own texts at full depth (`runs/exits/targets`), asked `describe the image`; "
        "labels, under the names that data sets use, asked each of `qa`"
    ]
    assert rows["training"] == [
        "the decoder with its embeddings and head, and the exits: 1,800 of 2,000 planned steps, 32 images each, seed 0"
    ]
    assert rows["loss"] == [
        "the last exit, and 0.1 of every other; 30 % of what the others learn is the last exit's distribution; "
        "layers are skipped, the last one in 10 % of rows"
    ]
    assert rows["highest rates"] == ["decoder 0.0003, head 0.0001, exits 0.001"]
    assert rows["hardware"] == ["A CPU, 2 threads; torch 2.9.0, bfloat16"]
    assert rows_of(render_card(record(hardware={"threads": 1})))["hardware"][0].startswith("A CPU, 1 thread; ")
    assert rows_of(render_card(record(hardware={"gpu": "A GPU"})))["hardware"][0].startswith("A GPU; torch ")
    assert rows["time"] == ["1:20:30 h of training, one worker"]
    assert rows["4"] == ["95.8 %", "97.4 %", "0.211"]
    assert rows["thresholds"] == ["", "layer 2: 0.981, layer 4: never"]
    assert rows["set for a risk of"] == ["", "0.5 %"]
    assert rows["depth"] == ["8.00 layers", "2.91 layers"]
    assert rows["computed"] == ["8.00 layers", "3.84 layers"]
    assert rows["outputs equal to full depth's"] == ["", "96.4 %"]
    assert rows["one sequence at a time, ms a text"] == ["96.4", "41.2", "57.3 % saved"]
    assert rows["32 at a time, texts a second"] == ["30.3", "52.1", "1.72 times as many"]
    assert "in the same engine on A CPU." in page
    assert "in the same engine on A CPU." in render_card(record(saving={"device": None}))
    assert "in the same engine. Other" in render_card(record(saving={"device": None}, hardware={"cpu": None}))
    assert "| ROUGE-L of captions | 71.26 | 70.93 |" in page  # full depth, early exit
    assert "| ROUGE-L of captions | 71.50 | 71.26 |" in page  # before, after
    assert "to report on. 0.24 were lost; 0.50 were allowed." in page
    assert all(len(line) <= 120 for line in page.splitlines() if not line.startswith("|"))


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ({"field": "captions"}, "labels, `captions`"),
        ({"template": "{a}, {b}"}, "labels, `{a}, {b}`"),
        ({"run": "runs/t", "own_texts": False, "full_depth": False}, "another model's texts (`runs/t`)"),
        ({"run": "runs/t"}, "texts of a run (`runs/t`)"),
    ],
)
def test_where_targets_came_from(target: dict[str, Any], said: str) -> None:
    assert rows_of(render_card(record(data={"targets": [target]})))["learned"] == [said]


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"parts": "low_rank", "low_rank": 16}, "updates of rank 16, merged into the matrices, and the exits: "),
        ({"parts": "everything"}, "encoder and decoder, and the exits: "),
        ({"mode": "frozen", "parts": None}, "the exits alone: "),
        ({"steps": 2000, "gate_steps": 300, "ema": 0.99},
         "2,000 steps, 300 of them for learned gates, 32 images each, seed 0; a running mean of weights (0.99) is "),
    ],
)  # fmt: skip
def test_what_was_trained(training: dict[str, Any], said: str) -> None:
    rows = rows_of(render_card(record(training=training)))
    assert said in rows["training"][0]
    assert ("loss" in rows and rows["loss"] != []) or training["mode"] == "frozen"


def test_a_marked_checkpoint_says_so_first() -> None:
    page = render_card(record(guard={"lost": 1.306}))
    text = page.partition("# receipts")[2].strip()
    assert text.startswith(
        "**Full depth of this checkpoint lost 1.31 points in training, more than the 0.50 allowed.**"
    )
    assert "to report on. **1.31 were lost, more than the 0.50 allowed.**" in page
    assert "more than" not in render_card(record())
    assert "None were lost; 0.50 were allowed." in render_card(record(guard={"lost": -0.2}))
    plain = render_card(record(guard={"lost": 1.306}), plain=True)
    assert plain.partition("# receipts")[2].strip().startswith("**Full depth")


def test_what_is_not_known_is_not_mentioned(tmp_path: Path) -> None:
    page = render_card(known_least())
    assert list(rows_of(page)) == ["", "model", "parameters", "made from", "data", "images", "training", "hardware"]
    assert not re.search(r"none|nan|unknown|null", page, re.IGNORECASE)
    assert re.findall("^## .*", page, re.MULTILINE) == ["## Use"]
    write_card(tmp_path, known_least())
    content = json.loads((tmp_path / RECORD_FILE).read_text())
    assert "seconds" not in content["hardware"]
    assert "null" not in (tmp_path / RECORD_FILE).read_text()
    some = record(exits=[{"layer": 2, "agrees": 0.5}, {"layer": 8, "agrees": 1.0, "right": NAN}], early=[
        {"gate": "softmax_max", "risk": 0.01, "thresholds": [0.5], "mean_depth": 2.0, "full": {"a": NAN}, "early": {}}
    ])  # fmt: skip
    rows = rows_of(render_card(some))
    assert (rows["exit after layer"], rows["2"]) == (["equal to full depth"], ["50.0 %"])
    assert "a" not in rows
    assert "computed" not in rows


def test_learned_gates_have_a_column_of_their_own() -> None:
    (softmax,) = record().early
    both = [softmax.model_dump(), {**softmax.model_dump(), "gate": "classifier", "mean_depth": 2.5}]
    rows = rows_of(render_card(record(early=both)))
    assert rows["depth"] == ["8.00 layers", "2.91 layers", "2.50 layers"]
    assert "| | full depth | early exit, softmax\\_max | early exit, classifier |" in render_card(record(early=both))


def test_texts_of_others_break_nothing() -> None:
    evil = "a|b`c`](http://x) <img src=x>\n# heading\n---\nlicense: mit\x1b[31m"
    page = render_card(record(
        model={"name": evil, "encoder": evil}, source={"base_model": evil, "checkpoint": evil, "licence_name": evil},
        data={"paths": [evil], "kind": evil, "targets": [{"prompt": evil, "field": evil}]}, hardware={"cpu": evil},
        saving={"device": evil},
    ))  # fmt: skip
    rows_of(page)
    data = ModelCard(page).data
    assert (data.license, data.license_name, data.base_model) == ("other", evil, None)
    body = page.split("---\n", 2)[2]
    assert "\x1b" not in body
    outside_code = re.sub(r"`[^`\n]*`", "", body.replace("\\`", ""))
    assert not re.search(r"<img|(?<!\\)\]\(http:|^# heading|^license", outside_code, re.MULTILINE)


def test_the_plain_model_has_a_card_without_exits(tmp_path: Path) -> None:
    write_card(tmp_path, record(), plain=True)
    page = (tmp_path / "README.md").read_text()
    assert re.findall("^## .*", page, re.MULTILINE) == ["## Full depth before and after"]
    assert rows_of(page)["licence"] == ["[our-terms](LICENSE)"]
    assert not (tmp_path / RECORD_FILE).exists()


def test_the_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    for written in (record(), known_least()):
        write_card(tmp_path, written)
        assert TrainingRecord.read(tmp_path) == TrainingRecord.from_json(written.to_json()) == written
    content = json.loads(record().to_json())
    content["training"]["of_a_later_version"] = 1
    assert TrainingRecord.from_json(json.dumps(content)) == record()


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"format_version": 2}'])
def test_a_damaged_record_is_one_sentence(content: str, tmp_path: Path) -> None:
    assert TrainingRecord.read(tmp_path) is None
    (tmp_path / RECORD_FILE).write_text(content)
    with pytest.raises(UserError, match=RECORD_FILE) as caught:
        TrainingRecord.read(tmp_path)
    assert "\n" not in str(caught.value)
