"""Five captions of a scene, one per prompt; the wording is a function of the scene and the prompt, nothing else."""

from collections.abc import Callable, Iterable

from jobs.scenes.sprites import Sprite, article
from jobs.scenes.world import SIZE_NAMES, Scene, SignKind, Thing

NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five")
CLEAR_Y = 24.0  # vertical distance of two centres from which on "above" is never in doubt


def captions(scene: Scene) -> list[dict[str, str]]:
    return [{"prompt": prompt, "text": write(scene)} for prompt, write in STYLES.items()]


def canonical(scene: Scene) -> str:
    """Return kinds with their counts by first appearance from the left, the background, and what is printed."""
    background = f"{article(scene.background)} {scene.background} background"
    return f"{join(count_phrases(scene.things))} on {background}{printed(scene)}"


def detailed(scene: Scene) -> str:
    """Return every object from the left with size and card, what is printed, a relation, the largest, the sum.

    The more objects, the fewer further clauses: the text stays under about 40 tokens.
    """
    count = len(scene.things)
    opening = "from left to right: " if count > 1 else "only "
    clauses = [opening + join([thing_phrase(thing) for thing in scene.things])]
    if scene.sign is not None and scene.sign.kind is SignKind.SUM:
        left, right = scene.sign.numbers
        clauses.append(f"the numbers {left} and {right} add up to {left + right}")
    elif scene.sign is not None:
        clauses.append(f"the sign says {scene.sign.text}")
    first, last = scene.things[0], scene.things[-1]
    outermost_are_unique = len(scene.with_name(first.name)) == len(scene.with_name(last.name)) == 1
    if 1 < count <= 4 and outermost_are_unique and abs(first.y - last.y) >= CLEAR_Y:
        clauses.append(f"the {first.name} is {'above' if first.y < last.y else 'below'} the {last.name}")
    largest = largest_thing(scene)
    if 1 < count <= 3 and largest is not None and len(scene.with_name(largest.name)) == 1:
        clauses.append(f"the {largest.name} is the largest")
    if count <= 2:
        clauses.append(f"the background is {scene.background}")
    return ". ".join(clauses)


def alphabetical(scene: Scene) -> str:
    """Return kinds with their counts in alphabetical order of the singular."""
    if len(scene.things) == 1:
        return f"only {scene.things[0].sprite.with_article}"
    return "in order: " + ", ".join(count_phrases(sorted(scene.things, key=lambda thing: thing.name)))


def by_size(scene: Scene) -> str:
    """One clause per size class, largest first; within a class from left to right, verbs agreeing with the number."""
    clauses = []
    for size in reversed(SIZE_NAMES):
        group = [thing for thing in scene.things if thing.size == size]
        if group:
            phrases = [definite(sprite, number, len(scene.with_name(sprite.name))) for sprite, number in tally(group)]
            clauses.append(f"{join(phrases)} {'is' if len(group) == 1 else 'are'} {size}")
    return ", ".join(clauses)


def brief(scene: Scene) -> str:
    """How many objects, the outermost two, the background; that something is printed, not what."""
    extra = "" if scene.sign is None else " with two numbers" if scene.sign.kind is SignKind.SUM else " with a sign"
    count = len(scene.things)
    if count == 1:
        return f"just {scene.things[0].sprite.with_article} on {scene.background}{extra}"
    first, last = scene.things[0].sprite.with_article, scene.things[-1].sprite.with_article
    return f"{NUMBER_WORDS[count]} objects on {scene.background}{extra}, from {first} to {last}"


STYLES: dict[str, Callable[[Scene], str]] = {
    "describe the image": canonical,
    "describe the image in detail": detailed,
    "list the objects in alphabetical order": alphabetical,
    "list the objects from largest to smallest": by_size,
    "describe the image briefly": brief,
}


def printed(scene: Scene) -> str:
    if scene.sign is None:
        return ""
    if scene.sign.kind is SignKind.SUM:
        left, right = scene.sign.numbers
        return f". the numbers are {left} and {right}"
    return f". the sign says {scene.sign.text}"


def tally(things: Iterable[Thing]) -> list[tuple[Sprite, int]]:
    """(kind, how many), in order of first appearance."""
    counts: dict[int, tuple[Sprite, int]] = {}
    for thing in things:
        _, seen = counts.get(thing.sprite.kind, (thing.sprite, 0))
        counts[thing.sprite.kind] = (thing.sprite, seen + 1)
    return list(counts.values())


def count_phrases(things: Iterable[Thing]) -> list[str]:
    return [s.with_article if number == 1 else f"{NUMBER_WORDS[number]} {s.plural}" for s, number in tally(things)]


def definite(sprite: Sprite, number: int, total: int) -> str:
    """The owl, the two owls; and one owl, two owls where the scene has more of them."""
    if number < total:
        return f"{NUMBER_WORDS[number]} {sprite.name if number == 1 else sprite.plural}"
    return f"the {sprite.name}" if number == 1 else f"the {NUMBER_WORDS[number]} {sprite.plural}"


def thing_phrase(thing: Thing) -> str:
    """Such as "a small owl on red", where red is its card; medium is not worth a word."""
    noun = thing.sprite.with_article if thing.size == "medium" else f"a {thing.size} {thing.name}"
    return noun if thing.card is None else f"{noun} on {thing.card}"


def largest_thing(scene: Scene) -> Thing | None:
    """Return the only object of the largest size class present, or None."""
    top = max(SIZE_NAMES.index(thing.size) for thing in scene.things)
    largest = [thing for thing in scene.things if SIZE_NAMES.index(thing.size) == top]
    return largest[0] if len(largest) == 1 else None


def join(phrases: list[str]) -> str:
    return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]
