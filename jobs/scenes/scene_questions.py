"""Questions about a scene with the one answer each has; a task's wording varies, its answer never depends on that."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from jobs.scenes.scene_captions import CLEAR_Y, tally
from jobs.scenes.world import SIDE, SIZE_NAMES, Scene, SignKind, Thing

CLEAR_HALF = 14.0  # distance of a centre from the middle line from which on "left half" is never in doubt
ORDINALS = ("first", "second", "third", "fourth", "fifth")
LONG_CODE = 5  # characters from which on reading a code is a hard question
SPELLABLE = 4  # longest sign that is asked for backwards
RARE = 0.2  # share kept of candidates whose answer would otherwise be too common ("nothing", "no card", "0")


@dataclass(frozen=True)
class Question:
    task: str
    hard: bool
    question: str
    answer: str


# {a}, {b} are names, {p} a plural, {c} a colour, {n} an ordinal.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "presence": ("is there {an}?", "can you see {an}?", "does the image show {an}?", "is {an} in the picture?"),
    "count_all": ("how many objects are there?", "how many things are in the image?", "what is the number of objects?"),
    "count_kind": ("how many {p} are there?", "how many {p} can you see?", "what is the number of {p}?"),
    "card_color": (
        "what color is the card behind the {a}?",
        "which color is under the {a}?",
        "what color is the {a} on?",
    ),
    "background": ("what color is the background?", "which color is the background?", "what is the background color?"),
    "size": ("how big is the {a}?", "what size is the {a}?", "is the {a} small, medium or large?"),
    "half_x": ("is the {a} on the left or on the right?", "which half is the {a} in, left or right?"),
    "half_y": ("is the {a} at the top or at the bottom?", "which half is the {a} in, top or bottom?"),
    "above": ("is the {a} above the {b}?", "is the {a} higher than the {b}?"),
    "sign": ("what does the sign say?", "what is written on the sign?", "read the sign.", "which text is printed?"),
    "left_of": (
        "what is just left of the {a}?",
        "what is directly to the left of the {a}?",
        "what comes before the {a}?",
    ),
    "right_of": (
        "what is just right of the {a}?",
        "what is directly to the right of the {a}?",
        "what comes after the {a}?",
    ),
    "nth_left": ("what is the {n} object from the left?", "from the left, what is the {n} thing?"),
    "nth_right": ("what is the {n} object from the right?", "from the right, what is the {n} thing?"),
    "card_neighbor": ("what is just {s} of the thing on the {c} card?", "what is directly to the {s} of the {c} card?"),
    "neighbor_card": (
        "what color is the card behind the object just {s} of the {a}?",
        "which color is under the thing just {s} of the {a}?",
    ),
    "card_object": ("what is on the {c} card?", "which object is on the {c} card?"),
    "larger": ("which is larger, the {a} or the {b}?", "what is bigger, the {a} or the {b}?"),
    "smaller": ("which is smaller, the {a} or the {b}?", "the {a} or the {b}, which one is smaller?"),
    "most_often": ("which object appears most often?", "what is there more than one of?", "which kind appears most?"),
    "count_left": ("how many objects are left of the {a}?", "how many things are to the left of the {a}?"),
    "count_right": ("how many objects are right of the {a}?", "how many things are to the right of the {a}?"),
    "sum": ("what is the sum of the numbers?", "what do the printed numbers add up to?", "add the two numbers."),
    "reversed": ("spell the sign backwards.", "read the sign from right to left.", "what is the sign in reverse?"),
    "alphabet_first": ("which object comes first in the alphabet?", "which name is first in alphabetical order?"),
    "alphabet_last": ("which object comes last in the alphabet?", "which name is last in alphabetical order?"),
    "list_reversed": ("list all objects from right to left.", "name everything from right to left."),
}
ALWAYS = ("sign", "sum")  # asked of every image that has them

Slots = dict[str, str]
Candidate = tuple[str, bool, Slots, str]  # task, hard, what fills the template, answer


def questions(scene: Scene, rng: np.random.Generator, count: int) -> list[Question]:
    """Return up to `count` questions: two of presence, then rounds over the tasks in random order."""
    by_task: dict[str, list[Candidate]] = {}
    for make in (presence, appearance, printed, order, two_hops, comparisons):
        for candidate in make(scene, rng):
            by_task.setdefault(candidate[0], []).append(candidate)
    for candidates in by_task.values():
        shuffle(candidates, rng)
    chosen = [by_task[task].pop() for task in ALWAYS if task in by_task]
    chosen += [by_task["presence"].pop() for _ in range(2)]
    while len(chosen) < count and any(by_task.values()):
        tasks = [task for task in by_task if by_task[task]]
        shuffle(tasks, rng)
        chosen += [by_task[task].pop() for task in tasks]
    return [phrase(candidate, rng) for candidate in chosen[:count]]


def phrase(candidate: Candidate, rng: np.random.Generator) -> Question:
    task, hard, slots, answer = candidate
    templates = TEMPLATES[task]
    return Question(task, hard, templates[int(rng.integers(len(templates)))].format(**slots), answer)


def presence(scene: Scene, rng: np.random.Generator) -> Iterator[Candidate]:
    """Ask for as many yes as no, with plausible absent kinds."""
    shown = [sprite for sprite, _ in tally(scene.things)]
    for sprite in shown[:3]:
        yield "presence", False, {"an": sprite.with_article}, "yes"
    for sprite in scene.absent[: max(1, len(shown[:3]))]:
        yield "presence", False, {"an": sprite.with_article}, "no"
    for sprite, number in tally(scene.things):
        yield "count_kind", False, {"p": sprite.plural}, str(number)
    if rng.random() < RARE:
        yield "count_kind", False, {"p": scene.absent[-1].plural}, "0"
    yield "count_all", False, {}, str(len(scene.things))


def appearance(scene: Scene, rng: np.random.Generator) -> Iterator[Candidate]:
    """Ask for colour, size and place of single objects."""
    yield "background", False, {}, scene.background
    for thing in unique_things(scene):
        if thing.card or rng.random() < RARE:
            yield "card_color", False, {"a": thing.name}, thing.card or "no card"
        yield "size", False, {"a": thing.name}, thing.size
        if abs(thing.x - SIDE / 2) >= CLEAR_HALF:
            yield "half_x", False, {"a": thing.name}, "left" if thing.x < SIDE / 2 else "right"
        if abs(thing.y - SIDE / 2) >= CLEAR_HALF:
            yield "half_y", False, {"a": thing.name}, "top" if thing.y < SIDE / 2 else "bottom"


def printed(scene: Scene, rng: np.random.Generator) -> Iterator[Candidate]:
    """Ask what is on the plates."""
    if scene.sign is None:
        return
    text = scene.sign.text
    if scene.sign.kind is SignKind.SUM:
        yield "sum", True, {}, str(sum(scene.sign.numbers))
        return
    yield "sign", scene.sign.kind is SignKind.CODE and len(text) >= LONG_CODE, {}, text
    if 3 <= len(text) <= SPELLABLE:
        yield "reversed", True, {}, text[::-1]


def order(scene: Scene, rng: np.random.Generator) -> Iterator[Candidate]:
    """Ask for the order from left to right, and in the alphabet."""
    names = [thing.name for thing in scene.things]
    last = len(names) - 1
    if len(set(names)) == 1:
        return
    for place, thing in enumerate(scene.things):
        if names.count(thing.name) > 1:
            continue
        if place > 0 or rng.random() < RARE:
            yield "left_of", True, {"a": thing.name}, names[place - 1] if place > 0 else "nothing"
            yield "count_left", True, {"a": thing.name}, str(place)
        if place < last or rng.random() < RARE:
            yield "right_of", True, {"a": thing.name}, names[place + 1] if place < last else "nothing"
            yield "count_right", True, {"a": thing.name}, str(last - place)
    if last >= 2:
        for place in range(last + 1):
            yield "nth_left", True, {"n": ORDINALS[place]}, names[place]
            yield "nth_right", True, {"n": ORDINALS[place]}, names[last - place]
    yield "alphabet_first", True, {}, min(names)
    yield "alphabet_last", True, {}, max(names)
    yield "list_reversed", True, {}, ", ".join(reversed(names))


def two_hops(scene: Scene, rng: np.random.Generator) -> Iterator[Candidate]:
    """Find one thing, step to its neighbour, answer about that."""
    cards = [thing.card for thing in scene.things]
    if len({thing.name for thing in scene.things}) == 1:
        return
    for place, thing in enumerate(scene.things):
        for side, other in (("left", place - 1), ("right", place + 1)):
            if not 0 <= other < len(scene.things):
                continue
            neighbor = scene.things[other]
            if thing.card and cards.count(thing.card) == 1:
                yield "card_neighbor", True, {"c": thing.card, "s": side}, neighbor.name
            if len(scene.with_name(thing.name)) == 1 and (neighbor.card or rng.random() < RARE):
                yield "neighbor_card", True, {"a": thing.name, "s": side}, neighbor.card or "no card"
        if thing.card and cards.count(thing.card) == 1:
            yield "card_object", False, {"c": thing.card}, thing.name


def comparisons(scene: Scene, rng: np.random.Generator) -> Iterator[Candidate]:
    """Compare two objects, or kinds by how often they appear."""
    single = unique_things(scene)
    for place, one in enumerate(single):
        for other in single[place + 1 :]:
            a, b = (one, other) if rng.random() < 0.5 else (other, one)
            slots = {"a": a.name, "b": b.name}
            by_size = sorted((a, b), key=lambda thing: SIZE_NAMES.index(thing.size))
            if a.size != b.size:
                yield "larger", True, slots, by_size[1].name
                yield "smaller", True, slots, by_size[0].name
            if abs(a.y - b.y) >= CLEAR_Y:
                yield "above", False, slots, "yes" if a.y < b.y else "no"
    counts = sorted(tally(scene.things), key=lambda pair: -pair[1])
    if len(counts) > 1 and counts[0][1] > counts[1][1]:
        yield "most_often", True, {}, counts[0][0].name


def unique_things(scene: Scene) -> list[Thing]:
    """Return the things that "the <name>" can mean."""
    return [thing for thing in scene.things if len(scene.with_name(thing.name)) == 1]


def shuffle(items: list, rng: np.random.Generator) -> None:  # type: ignore[type-arg]
    items[:] = [items[place] for place in rng.permutation(len(items)).tolist()]
