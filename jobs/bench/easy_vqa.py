"""easy-VQA as shards: 5,000 pictures of one coloured shape with 48,248 questions, which nobody here has made.

    python -m jobs.bench.easy_vqa data/easy-vqa

The data are those of the package `easy-vqa` (MIT licence, github.com/vzhou842/easy-VQA), of the dev extra. Its training
pictures become the splits train and, every twentieth, val; its test pictures the split test. conf/easy-vqa.yaml has
the command that follows.
"""

import argparse
import json
import sys
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from conf.errors import UserError
from jobs.scenes.shards import add_member

HELD_OUT_EVERY = 20  # of the training pictures
_IMAGES_PER_SHARD = 500


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder that gets the splits")
    options = parser.parse_args(arguments)
    try:
        import easy_vqa
    except ImportError:
        raise UserError("the data come with the package easy-vqa: pip install easy-vqa") from None
    train = easy_vqa.get_train_image_paths()
    held_out = {number for number in train if number % HELD_OUT_EVERY == 0}
    asked = questions_by_image(*easy_vqa.get_train_questions())
    for split, numbers in (("train", train.keys() - held_out), ("val", held_out)):
        write_split(options.output / split, numbers, train, asked)
    test = easy_vqa.get_test_image_paths()
    write_split(options.output / "test", test, test, questions_by_image(*easy_vqa.get_test_questions()))
    return 0


def questions_by_image(
    questions: Iterable[str], answers: Iterable[str], images: Iterable[int]
) -> dict[int, list[dict[str, str]]]:
    """Return the questions of every picture, with their answers, in the order of the data set."""
    found: defaultdict[int, list[dict[str, str]]] = defaultdict(list)
    for question, answer, image in zip(questions, answers, images, strict=True):
        found[image].append({"question": question, "answer": answer})
    return found


def write_split(
    folder: Path, numbers: Iterable[int], paths: Mapping[int, str], asked: Mapping[int, list[dict[str, str]]]
) -> None:
    """Write tars of pictures, as they are, and their questions; the same bytes every time."""
    folder.mkdir(parents=True, exist_ok=True)
    ordered = sorted(numbers)
    for start in range(0, len(ordered), _IMAGES_PER_SHARD):
        path = folder / f"easy-vqa-{folder.name}-{start // _IMAGES_PER_SHARD:03d}.tar"
        with tarfile.open(path, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for number in ordered[start : start + _IMAGES_PER_SHARD]:
                add_member(tar, f"{number:05d}.png", Path(paths[number]).read_bytes())
                add_member(tar, f"{number:05d}.json", json.dumps({"qa": asked[number]}).encode())
    print(f"{folder}: {len(ordered)} pictures, {sum(len(asked[number]) for number in ordered)} questions")


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(f"easy_vqa: {error}")
