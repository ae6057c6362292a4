"""The scenes corpus: reproducible, split by combinations, every statement true of the objects it is about."""

import functools
import io
import itertools
import json
import re
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from jobs.cli import main as deed
from jobs.scenes.config import ScenesConfig
from jobs.scenes.odd_images import broken_images
from jobs.scenes.shards import describe, make_scene, write_shards
from jobs.scenes.sprites import SPLITS, load_sprites, pair_split
from jobs.scenes.world import compose

CONFIG = ScenesConfig()
SCENES_PER_SPLIT = 120
ORDINALS = ("first", "second", "third", "fourth", "fifth")


@pytest.fixture(scope="module")
def rows():
    return {
        split: [describe(compose(0, split, i, CONFIG), 0, CONFIG) for i in range(SCENES_PER_SPLIT)] for split in SPLITS
    }


def test_sprites_are_300_with_unique_names_and_plurals():
    sprites = load_sprites()
    assert len(sprites) == 300
    assert len({sprite.name for sprite in sprites}) == 300
    assert all(re.fullmatch(r"[a-z]+( [a-z]+)?", sprite.name) for sprite in sprites)


def test_a_scene_needs_no_other_scene():
    image, row = make_scene(3, "val", 7, CONFIG)
    for i in range(5):
        make_scene(3, "train", i, CONFIG)
    again, row_again = make_scene(3, "val", 7, CONFIG)
    assert row == row_again
    assert image.tobytes() == again.tobytes()
    assert make_scene(4, "val", 7, CONFIG)[1] != row


def test_a_scene_is_the_same_scene_at_every_image_size():
    small = make_scene(0, "test", 2, CONFIG)[1]
    image, large = make_scene(0, "test", 2, ScenesConfig(image_size=256))
    assert image.size == (256, 256)
    assert (large["captions"], large["qa"]) == (small["captions"], small["qa"])


def test_no_pair_of_kinds_is_in_two_splits(rows):
    pairs = {
        split: {
            pair
            for row in rows[split]
            for pair in itertools.combinations(sorted({thing["name"] for thing in row["objects"]}), 2)
        }
        for split in SPLITS
    }
    for one, other in itertools.combinations(SPLITS, 2):
        assert not pairs[one] & pairs[other]
    shares = Counter(pair_split(a, b) for a, b in itertools.combinations(load_sprites(), 2))
    assert 0.08 < shares["test"] / shares.total() < 0.12
    assert 0.04 < shares["val"] / shares.total() < 0.08


@pytest.mark.parametrize(("kinds", "most"), [(25, 4), (36, 5)])
def test_fewer_kinds_and_objects_leave_splits_apart_and_something_absent(kinds: int, most: int) -> None:
    config = ScenesConfig(kinds=kinds, max_objects=most)
    scenes = {split: [compose(0, split, i, config) for i in range(SCENES_PER_SPLIT)] for split in SPLITS}
    shown = {split: {thing.sprite for scene in scenes[split] for thing in scene.things} for split in SPLITS}
    assert {len(sprites) for sprites in shown.values()} == {kinds}
    assert shown["train"] == shown["val"] == shown["test"]
    everything = list(itertools.chain(*scenes.values()))
    for scene in everything:
        sprites = {thing.sprite for thing in scene.things}
        assert all(pair_split(a, b) == scene.split for a, b in itertools.combinations(sprites, 2))
        assert scene.absent
        assert set(scene.absent) <= shown["train"] - sprites
    counts = Counter(len(scene.things) for scene in everything)
    assert sorted(counts) == list(range(1, most + 1))


def test_most_objects_may_be_one() -> None:
    config = ScenesConfig(max_objects=1)
    assert {len(compose(0, "train", i, config).things) for i in range(20)} == {1}


def test_layout_keeps_left_to_right_and_sizes_unambiguous(rows):
    for row in itertools.chain(*rows.values()):
        xs = [thing["x"] for thing in row["objects"]]
        assert all(right - left >= 8 for left, right in itertools.pairwise(xs))
        for thing in row["objects"]:
            assert thing["side"] == pytest.approx({"small": 26, "medium": 38, "large": 54}[thing["size"]], abs=1.1)
            assert thing["side"] / 2 <= thing["x"] <= 128 - thing["side"] / 2
            assert thing["card"] != row["background"]


def test_every_answer_is_what_the_objects_say(rows):
    asked = Counter()
    for row in itertools.chain(*rows.values()):
        for qa in row["qa"]:
            asked[qa["task"]] += 1
            assert qa["answer"] == solve(qa["task"], qa["question"], row), (row["key"], qa)
    assert len(asked) == 27
    assert min(asked.values()) >= 10


def test_yes_and_no_are_balanced_and_a_third_or_more_is_hard(rows):
    qa = [qa for row in itertools.chain(*rows.values()) for qa in row["qa"]]
    presence = Counter(q["answer"] for q in qa if q["task"] == "presence")
    assert 0.45 < presence["yes"] / presence.total() < 0.55
    assert 0.35 < sum(q["hard"] for q in qa) / len(qa) < 0.6


def test_captions_are_true_distinct_and_of_varied_length(rows):
    lengths = []
    for row in itertools.chain(*rows.values()):
        texts = {caption["prompt"]: caption["text"] for caption in row["captions"]}
        assert len(texts) == 5
        lengths += [len(text.split()) for text in texts.values()]
        check_detail(texts["describe the image in detail"], row)
        check_sizes(texts["list the objects from largest to smallest"], row)
    assert min(lengths) >= 2
    assert max(lengths) <= 48
    assert 10 < sum(lengths) / len(lengths) < 18


def test_shards_are_the_same_bytes_and_hold_readable_jpegs(tmp_path: Path):
    def write(folder: str) -> list[bytes]:
        config = ScenesConfig(out=str(tmp_path / folder), num_images=5, images_per_shard=3)
        return [path.read_bytes() for path in sorted(write_shards(config))]

    one, two = write("a"), write("b")
    assert one == two
    assert len(one) == 2
    with tarfile.open(fileobj=io.BytesIO(one[1])) as tar:
        names = tar.getnames()
        assert names == ["test-0000003.jpg", "test-0000003.json", "test-0000004.jpg", "test-0000004.json"]
        image = Image.open(tar.extractfile(names[0]))
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (128, 128))
        image.load()
        row = json.load(tar.extractfile(names[1]))
    assert row == make_scene(0, "test", 3, CONFIG)[1]


def test_odd_images_load_exactly_when_they_are_valid():
    odd = broken_images(0, CONFIG)
    assert sum(not image.valid for image in odd) == 3
    modes = {}
    for image in odd:
        if image.valid:
            opened = Image.open(io.BytesIO(image.payload))
            modes[image.name] = opened.mode
            assert ImageOps.exif_transpose(opened).convert("RGB").size == (128, 128)
        else:
            with pytest.raises(OSError):
                Image.open(io.BytesIO(image.payload)).load()
    assert modes["cmyk.jpg"] == "CMYK"
    assert modes["gray-16-bit.png"] == "I;16"
    assert modes["palette-alpha.png"] == "P"


def test_a_mistake_in_the_config_is_one_sentence(capsys):
    assert deed(["scenes", "--set", "splitt=train"]) == 2
    assert capsys.readouterr().err.strip() == "deed scenes: unknown key 'splitt', did you mean 'split'?"
    assert deed(["scenes", "--set", "kinds=25"]) == 2
    assert "of 25 kinds no fifth one may" in capsys.readouterr().err


def solve(task: str, question: str, row: dict) -> str:
    """The answer, from the question's words and the objects alone."""
    things = sorted(row["objects"], key=lambda thing: thing["x"])
    names = [thing["name"] for thing in things]
    mentioned = mentions(question)
    at = names.index(mentioned[0]) if mentioned and mentioned[0] in names else None
    if mentioned and task not in ("presence", "count_kind"):
        assert all(names.count(name) == 1 for name in mentioned), "the thing asked about must be the only one"
    on_card = [i for i, thing in enumerate(things) if thing["card"] and f"the {thing['card']} card" in question]
    step = -1 if " left of" in question or "to the left" in question or "before" in question else 1
    rank = {"small": 0, "medium": 1, "large": 2}

    def at_place(place: int) -> str:
        return names[place] if 0 <= place < len(names) else "nothing"

    match task:
        case "presence":
            return "yes" if at is not None else "no"
        case "count_all":
            return str(len(things))
        case "count_kind":
            return str(names.count(mentioned[0]))
        case "card_color":
            return things[at]["card"] or "no card"
        case "background":
            return row["background"]
        case "size":
            return things[at]["size"]
        case "half_x":
            assert abs(things[at]["x"] - 64) > 13
            return "left" if things[at]["x"] < 64 else "right"
        case "half_y":
            assert abs(things[at]["y"] - 64) > 13
            return "top" if things[at]["y"] < 64 else "bottom"
        case "above":
            a, b = (things[names.index(name)]["y"] for name in mentioned)
            assert abs(a - b) > 20
            return "yes" if a < b else "no"
        case "sign":
            return row["sign"]["text"]
        case "reversed":
            return "".join(reversed(row["sign"]["text"]))
        case "sum":
            return str(sum(int(number) for number in row["sign"]["text"].split()))
        case "left_of" | "right_of":
            return at_place(at + step)
        case "count_left":
            return str(at)
        case "count_right":
            return str(len(things) - 1 - at)
        case "nth_left" | "nth_right":
            place = next(i for i, word in enumerate(ORDINALS) if word in question)
            return names[place] if task == "nth_left" else names[-1 - place]
        case "card_neighbor":
            assert len(on_card) == 1
            return at_place(on_card[0] + step)
        case "neighbor_card":
            return things[at + step]["card"] or "no card"
        case "card_object":
            assert len(on_card) == 1
            return names[on_card[0]]
        case "larger" | "smaller":
            a, b = sorted((things[names.index(name)] for name in mentioned), key=lambda thing: rank[thing["size"]])
            assert a["size"] != b["size"]
            return b["name"] if task == "larger" else a["name"]
        case "most_often":
            (name, most), (_, second) = Counter(names).most_common(2)
            assert most > second
            return name
        case "alphabet_first":
            return sorted(names)[0]
        case "alphabet_last":
            return sorted(names)[-1]
        case "list_reversed":
            return ", ".join(names[::-1])
    raise AssertionError(f"no check for task {task}")


def mentions(question: str) -> list[str]:
    """The kinds named in a question, in order; longer names win over the shorter ones inside them."""
    words, pattern = kind_pattern()
    question = re.sub(r"\b(the|of) (image|picture|card|sign|background|alphabet)\b", "", question)
    return [words[found] for found in pattern.findall(question)]


@functools.cache
def kind_pattern() -> tuple[dict[str, str], re.Pattern[str]]:
    words = {word: sprite.name for sprite in load_sprites() for word in (sprite.name, sprite.plural)}
    choices = "|".join(sorted(map(re.escape, words), key=len, reverse=True))
    return words, re.compile(rf"\b({choices})\b")


def check_detail(text: str, row: dict) -> None:
    names = [thing["name"] for thing in row["objects"]]
    for clause in text.split(". ")[1:]:
        by_name = {thing["name"]: thing for thing in row["objects"]}
        if found := re.fullmatch(r"the (.+) is (above|below) the (.+)", clause):
            upper, lower = (found[1], found[3]) if found[2] == "above" else (found[3], found[1])
            assert names.count(upper) == names.count(lower) == 1
            assert by_name[upper]["y"] + 20 < by_name[lower]["y"]
        elif found := re.fullmatch(r"the (.+) is the largest", clause):
            assert all(thing["side"] + 5 < by_name[found[1]]["side"] for n, thing in by_name.items() if n != found[1])
        elif found := re.fullmatch(r"the numbers (\d) and (\d) add up to (\d+)", clause):
            assert row["sign"]["text"] == f"{found[1]} {found[2]}"
            assert int(found[1]) + int(found[2]) == int(found[3])
        elif clause.startswith("the sign says "):
            assert clause == f"the sign says {row['sign']['text']}"
        else:
            assert clause == f"the background is {row['background']}"


def check_sizes(text: str, row: dict) -> None:
    """Each clause names exactly the kinds of its size, from left to right, largest size first."""
    clauses = re.findall(r"(.+?) (is|are) (large|medium|small)(?:, |$)", text)
    assert [size for *_, size in clauses] == [
        size for size in ("large", "medium", "small") if any(t["size"] == size for t in row["objects"])
    ]
    for subject, verb, size in clauses:
        group = [thing["name"] for thing in row["objects"] if thing["size"] == size]
        assert mentions(subject) == list(dict.fromkeys(group))
        assert verb == ("is" if len(group) == 1 else "are")
