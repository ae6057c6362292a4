"""Every image of an archive is a row or is counted: dated names, several images of a key, masks, litter."""

from pathlib import Path

import pytest

from conf.source import SourceConfig
from pipeline.source.plan import Contents, Shard
from pipeline.source.readers import make_reader
from pipeline.source.readers.keys import group_by_key
from pipeline.source.readers.tar import Member
from pipeline.source.readers.webdataset import WebDatasetReader
from tests.shards import image_bytes, write_tar

PNG = image_bytes((1, 2, 3))


def read(
    path: Path, members: list[tuple[str, bytes]], image_suffix: tuple[str, ...] = ()
) -> tuple[list[tuple[str, object, dict[str, object]]], dict[str, tuple[str, ...]]]:
    """(key, image or why there is none, fields) of each row, and examples of what is left out by reason."""
    write_tar(path, members)
    reader = make_reader(SourceConfig(paths=(str(path),), image_suffix=image_suffix, passthrough=("*",)))
    assert isinstance(reader, WebDatasetReader)
    shard = Shard("a", str(path), path.stat().st_size)
    contents = reader.index(shard)
    assert contents.problems == ()
    raw = list(reader.read(shard, contents.samples))
    assert [r.sample.row for r in raw] == list(range(len(raw)))
    assert sum(len(part.examples) for part in contents.left_out) == sum(part.count for part in contents.left_out)
    return [(r.sample.key, r.image or r.error_type, r.fields) for r in raw], {
        part.reason: part.examples for part in contents.left_out
    }


def test_dated_names_are_rows_under_their_whole_names(tmp_path: Path) -> None:
    members = [
        ("22.05.png", b"5"),
        ("22.06.png", b"6"),
        ("22.06.json", b'{"n": 6}'),
        ("d/IMG.2024.05.png", b"may"),
        ("d/IMG.2024.06.png", b"june"),
        ("d/IMG.2024.06.txt", b"in june"),
        ("d/IMG.txt", b"all of them"),
        ("photo (v1.2).jpg", b"photo"),
        ("photo (v1.2).json", b'{"version": 1.2}'),
    ]
    rows, left_out = read(tmp_path / "a.tar", members)
    assert rows == [
        ("22.05", b"5", {}),
        ("22.06", b"6", {"n": 6}),
        ("d/IMG.2024.05", b"may", {"txt": "all of them"}),
        ("d/IMG.2024.06", b"june", {"txt": "in june"}),
        ("photo (v1", b"photo", {"version": 1.2}),  # one image: the key of WebDataset
    ]
    assert left_out == {}


def test_several_images_of_a_key_are_rows_with_the_fields_they_share(tmp_path: Path) -> None:
    members = [("x.Left.jpg", b"l"), ("x.right.jpg", b"r"), ("x.json", b'{"q": 1}'), ("x.right.json", b'{"side": 2}')]
    rows, left_out = read(tmp_path / "a.tar", members)
    assert rows == [("x.Left", b"l", {"q": 1}), ("x.right", b"r", {"q": 1, "side": 2})]
    assert left_out == {}


def test_a_mask_is_counted_and_named_but_is_no_row(tmp_path: Path) -> None:
    members = [("k.mask.png", b"m"), ("k.jpg", b"i"), ("k.json", b'{"a": 1}'), ("k.05.jpg", b"five"), ("n.jpg", b"n")]
    rows, left_out = read(tmp_path / "a.tar", members)
    assert rows == [("k", b"i", {"a": 1}), ("k.05", b"five", {"a": 1}), ("n", b"n", {})]
    assert left_out == {"companion_images": ("k.mask.png",)}


def test_two_formats_of_a_key_are_two_rows(tmp_path: Path) -> None:
    members = [("k~2.jpg", b"0"), ("k.jpg", b"1"), ("k.png", b"2"), ("k.txt", b"t"), ("k.jpg", b"3")]
    rows, _ = read(tmp_path / "a.tar", members)
    assert rows == [("k~2", b"0", {}), ("k", b"1", {"txt": "t"}), ("k~3", b"2", {"txt": "t"}), ("k~4", b"3", {})]


@pytest.mark.parametrize(
    ("suffixes", "expected", "ignored"),
    [
        (("jpg",), {"k": b"i", "x.left": b"l", "x.right": b"r"}, 1),
        (("right.jpg", "jpg"), {"k": b"i", "x": b"r"}, 2),
        ((".MASK.png",), {"k": b"m", "x": "no_image"}, 3),
        (("img",), {"k": b"other", "x": "no_image"}, 4),
    ],
)
def test_the_user_may_say_which_image_is_meant(
    tmp_path: Path, suffixes: tuple[str, ...], expected: dict[str, object], ignored: int
) -> None:
    members = [("k.jpg", b"i"), ("k.mask.png", b"m"), ("k.img", b"other"), ("x.left.jpg", b"l"), ("x.right.jpg", b"r")]
    rows, left_out = read(tmp_path / "a.tar", members, suffixes)
    assert {key: image for key, image, _ in rows} == expected
    assert list(left_out) == ["unwanted_images"]
    assert len(left_out["unwanted_images"]) == ignored


def test_what_is_no_sample_is_counted_by_reason(tmp_path: Path) -> None:
    members = [
        ("./a.jpg", b"a"),
        ("./._a.jpg", b"fork"),
        ("__MACOSX/b.jpg", b"fork"),
        ("Thumbs.db", b"thumbs"),
        ("README", b"no image"),
        ("Makefile", b""),
    ]
    rows, left_out = read(tmp_path / "a.tar", members)
    assert rows == [("a", b"a", {})]
    assert {reason: len(names) for reason, names in left_out.items()} == {"hidden_files": 3, "other_files": 2}


def test_images_without_a_suffix_or_with_an_unknown_one_are_found_by_their_first_bytes(tmp_path: Path) -> None:
    members = [
        ("scan", PNG),
        ("d.1/IMG_0001", PNG),
        ("p.photo", PNG),
        ("p.json", b'{"a": 1}'),
        ("k.jpg", b"i"),
        ("k.emb", PNG),
    ]
    rows, left_out = read(tmp_path / "a.tar", members)
    assert [(key, image) for key, image, _ in rows] == [("scan", PNG), ("d.1/IMG_0001", PNG), ("p", PNG), ("k", b"i")]
    assert rows[2][2] == {"a": 1}
    assert left_out == {}


@pytest.mark.parametrize("cut_in", ["x.right.jpg", "x.json"])
def test_a_cut_drops_only_rows_that_may_lack_something(tmp_path: Path, cut_in: str) -> None:
    names = ["a.jpg", "a.json", "x.left.jpg", "x.right.jpg", "x.json", "y.jpg"]
    whole = write_tar(tmp_path / "a.tar", [(name, b'{"a": 1}') for name in names]).read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: 1024 * names.index(cut_in) + 600])
    shard = Shard("a", str(tmp_path / "a.tar"), 1)
    contents = WebDatasetReader(("unused",)).index(shard)
    assert isinstance(contents, Contents)
    assert [sample.key for sample in contents.samples] == ["a"]
    (problem,) = contents.problems
    assert problem.error_type == "truncated_shard"


def test_an_archive_of_one_key_is_listed_in_good_time(tmp_path: Path) -> None:
    members = [Member(f"x.{n:05d}.{suffix}", 0, 0) for n in range(20_000) for suffix in ("png", "json")]
    orphans = [Member(f"x.w{n}", 0, 0) for n in range(20_000)]
    grouped = group_by_key([*members, *orphans])
    assert (len(grouped.samples), grouped.samples[-1].key) == (20_000, "x.19999")
    assert [(part.reason, part.count) for part in grouped.left_out] == [("lone_sidecars", 19_900)]


BAD = {
    "deep": b"[" * 50_000 + b"]" * 50_000,
    "digits": b'{"n": ' + b"1" * 5000 + b"}",
    "bytes": b'{"a": "\xff"}',
    "cut": b'{"a": ',
}


def test_a_sidecar_that_cannot_be_parsed_costs_its_own_row(tmp_path: Path) -> None:
    members = [member for n in range(8) for member in ((f"{n}.jpg", b"i"), (f"{n}.json", b'{"a": NaN}'))]
    for n, bad in enumerate(BAD.values(), 2):
        members[2 * n + 1] = (f"{n}.json", bad)
    rows, _ = read(tmp_path / "a.tar", members)
    good = (b"i", {"a": None})
    assert [(image, fields) for _, image, fields in rows] == [
        *[good] * 2,
        *[("bad_json", {})] * 4,
        *[good] * 2,
    ]


def test_a_sidecar_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.source.readers.webdataset.MAX_JSON_BYTES", 100)
    members = [("a.jpg", b"a"), ("a.json", b" " * 200 + b"{}"), ("b.jpg", b"b"), ("b.npy", b"n" * 200)]
    rows, _ = read(tmp_path / "a.tar", members)
    assert [(key, image) for key, image, _ in rows] == [("a", "too_large"), ("b", b"b")]
    shard = Shard("a", str(tmp_path / "a.tar"), 1)
    lazy = WebDatasetReader(("unused",), fields=("txt",))
    (_, second) = lazy.read(shard, lazy.index(shard).samples)
    assert second.fields == {}
