"""The tar reader: any member order, long names, compression, and cuts anywhere."""

import gzip
import tarfile
from pathlib import Path

import pytest
import zstandard
from fsspec.implementations.local import LocalFileSystem

from pipeline.source.plan import Contents, Shard
from pipeline.source.readers import RawSample, ReadFailure, byte_ranges
from pipeline.source.readers.keys import image_part, split_key
from pipeline.source.readers.webdataset import WebDatasetReader
from tests.shards import write_tar

MEMBERS = [
    (f"{number:03d}.{suffix}", f"{number} {suffix}".encode() * 50) for number in range(6) for suffix in ("jpg", "txt")
]


def reader() -> WebDatasetReader:
    return WebDatasetReader(("unused",))


def shard_of(path: Path) -> Shard:
    return Shard(path.name.split(".")[0], str(path), path.stat().st_size)


def read_all(path: Path) -> list[RawSample]:
    contents = reader().index(shard_of(path))
    samples, problems = contents.samples, contents.problems
    assert problems == ()
    return list(reader().read(shard_of(path), samples))


def compressed(path: Path, suffix: str) -> Path:
    data = path.read_bytes()
    target = path.with_name(path.name + suffix)
    target.write_bytes(gzip.compress(data) if suffix.lower() == ".gz" else zstandard.compress(data))
    return target


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst", ".GZ"])
def test_samples_come_with_their_bytes_and_fields(tmp_path: Path, suffix: str) -> None:
    path = write_tar(tmp_path / "a.tar", MEMBERS)
    raw = read_all(compressed(path, suffix) if suffix else path)
    assert [r.sample.key for r in raw] == [f"{number:03d}" for number in range(6)]
    assert [r.image for r in raw] == [data for name, data in MEMBERS if name.endswith("jpg")]
    assert raw[3].fields == {"txt": "3 txt" * 50}


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_members_of_a_key_need_not_be_neighbours(tmp_path: Path, suffix: str) -> None:
    members = sorted(MEMBERS, key=lambda member: member[0].rsplit(".")[1])  # all images, then all texts
    path = write_tar(tmp_path / "a.tar", members)
    raw = read_all(compressed(path, suffix) if suffix else path)
    assert [(r.sample.key, r.fields["txt"]) for r in raw] == [(f"{n:03d}", f"{n} txt" * 50) for n in range(6)]


def test_a_part_of_a_shard_is_read_alone(tmp_path: Path) -> None:
    shard = shard_of(write_tar(tmp_path / "a.tar", MEMBERS))
    samples = reader().index(shard).samples
    assert [raw.sample.key for raw in reader().read(shard, samples[2:4])] == ["002", "003"]
    packed = shard_of(compressed(tmp_path / "a.tar", ".gz"))
    assert [raw.image for raw in reader().read(packed, samples[2:4])] == [b"2 jpg" * 50, b"3 jpg" * 50]


def test_repeated_keys_become_samples_of_their_own(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("x.jpg", b"1"), ("x.txt", b"one"), ("x.jpg", b"2"), ("x.txt", b"two")])
    assert [(r.sample.key, r.image, r.fields) for r in read_all(path)] == [
        ("x", b"1", {"txt": "one"}),
        ("x~2", b"2", {"txt": "two"}),
    ]


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 2, 0, 3)])
def test_a_file_called_like_a_repeat_loses_no_image(tmp_path: Path, order: tuple[int, ...]) -> None:
    members = [("x~2.jpg", b"a"), ("x.jpg", b"b"), ("x.jpg", b"c"), ("x~2.jpg", b"d")]
    raw = read_all(write_tar(tmp_path / "a.tar", [members[n] for n in order]))
    assert sorted(r.image or b"" for r in raw) == [b"a", b"b", b"c", b"d"]
    assert len({r.sample.key for r in raw}) == 4
    assert {"x", "x~2"} < {r.sample.key for r in raw}


def test_json_fields_are_merged_and_bad_json_is_an_error(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "a.tar", [("x.jpg", b"1"), ("x.json", b'{"a": [1]}'), ("y.jpg", b"2"), ("y.json", b"{oops")]
    )
    good, bad = read_all(path)
    assert good.fields == {"a": [1]}
    assert (bad.image, bad.error_type) == (None, "bad_json")
    assert "a/y.json" in (bad.message or "")


def test_a_key_without_an_image_is_an_error(tmp_path: Path) -> None:
    (raw,) = read_all(write_tar(tmp_path / "a.tar", [("x.txt", b"text"), (".hidden", b""), ("noext", b"")]))
    assert (raw.error_type, raw.image) == ("no_image", None)


def test_fields_are_not_fetched_when_nobody_wants_them(tmp_path: Path) -> None:
    shard = shard_of(write_tar(tmp_path / "a.tar", MEMBERS))
    lazy = WebDatasetReader(("unused",), fields=())
    samples = lazy.index(shard).samples
    assert all(raw.fields == {} and raw.image for raw in lazy.read(shard, samples))


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_every_cut_keeps_only_complete_samples_and_is_reported(tmp_path: Path, suffix: str) -> None:
    whole = write_tar(tmp_path / "whole.tar", MEMBERS).read_bytes()
    content_end = 12 * (512 + 512)
    for cut in [*range(0, content_end, 256), content_end - 1, content_end]:
        path = tmp_path / f"cut.tar{suffix}"
        path.write_bytes(gzip.compress(whole[:cut]) if suffix else whole[:cut])
        contents = reader().index(shard_of(path))
        samples, problems = contents.samples, contents.problems
        assert [problem.error_type for problem in problems] == ["truncated_shard"], cut
        assert len(samples) in (cut // 2048, max(0, cut // 2048 - 1)), cut
        raw = list(reader().read(shard_of(path), samples))
        assert [(r.image, r.fields) for r in raw] == [
            (f"{n} jpg".encode() * 50, {"txt": f"{n} txt" * 50}) for n in range(len(samples))
        ]


def test_a_cut_in_the_end_marker_loses_nothing(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "a.tar", MEMBERS).read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: 12 * 1024 + 512])
    contents = reader().index(shard_of(tmp_path / "a.tar"))
    samples, problems = contents.samples, contents.problems
    assert (len(samples), problems) == (6, ())


def test_a_cut_compressed_stream_keeps_what_came_before(tmp_path: Path) -> None:
    members = [(f"{n}.jpg", bytes((n * i) % 251 for i in range(5000))) for n in range(20)]
    packed = compressed(write_tar(tmp_path / "a.tar", members), ".gz")
    packed.write_bytes(packed.read_bytes()[:-2000])
    contents = reader().index(shard_of(packed))
    samples, (problem,) = contents.samples, contents.problems
    assert problem.error_type == "truncated_shard"
    assert 0 < len(samples) < 20


@pytest.mark.parametrize("data", [b"this is no tar" * 100, b"\x1f\x8b no gzip", b"x" * 5000])
@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tar.zst"])
def test_what_is_no_archive_is_one_problem(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    contents = reader().index(shard_of(tmp_path / name))
    samples, problems = contents.samples, contents.problems
    assert samples == ()
    assert [problem.error_type for problem in problems] in (["unreadable_shard"], ["truncated_shard"])


def header_with_size(name: str, field: bytes, kind: bytes = b"0") -> bytes:
    """A tar header whose size field holds these twelve bytes."""
    header = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
    header[124:136], header[156:157], header[148:156] = field, kind, b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "bad",
    [
        header_with_size("b.jpg", b"\xff" * 10 + b"\xfe\x00"),  # base 256: -512
        header_with_size("b.jpg", b"\xff" * 12),
        header_with_size("b", b"\xff" * 10 + b"\xfe\x00", b"x"),
        header_with_size("b", b"\xff" * 10 + b"\xfe\x00", b"5"),
        header_with_size("b.jpg", b"\x80" + b"\xff" * 11),  # 2^88 bytes
        header_with_size("p", b"%011o\0" % 17, b"x") + b"17 size=-1000000\n".ljust(512, b"\0"),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_size_that_cannot_be_ends_the_listing(tmp_path: Path, bad: bytes, suffix: str) -> None:
    good = write_tar(tmp_path / "good.tar", [("a.jpg", b"a"), ("c.jpg", b"c")]).read_bytes()
    data = good[:1024] + bad + good[1024:]
    path = tmp_path / f"a.tar{suffix}"
    path.write_bytes(gzip.compress(data) if suffix else data)
    contents = reader().index(shard_of(path))
    samples, (problem,) = contents.samples, contents.problems
    assert problem.error_type in ("unreadable_shard", "truncated_shard")
    assert [sample.key for sample in samples] in (["a"], [])


def test_a_plain_archive_is_read_in_requests_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_ranges, "_MAX_REQUEST_BYTES", 5000)
    members = [(f"{n}.jpg", bytes([n]) * size) for n, size in enumerate([2000, 2000, 9000, 1, 0, 3000])]
    path = write_tar(tmp_path / "a.tar", members)
    asked: list[int] = []
    cat_file = LocalFileSystem.cat_file
    monkeypatch.setattr(
        LocalFileSystem,
        "cat_file",
        lambda fs, name, start, end: (asked.append(end - start), cat_file(fs, name, start=start, end=end))[1],
    )
    assert [raw.image for raw in read_all(path)] == [data for _, data in members]
    assert max(asked) == 9000
    assert len(asked) == 3


def test_an_empty_archive_has_no_samples_and_no_problem(tmp_path: Path) -> None:
    assert reader().index(shard_of(write_tar(tmp_path / "a.tar", []))) == Contents()


def test_a_shard_that_vanishes_is_a_problem_then_a_read_failure(tmp_path: Path) -> None:
    shard = shard_of(write_tar(tmp_path / "a.tar", MEMBERS))
    samples = reader().index(shard).samples
    (tmp_path / "a.tar").unlink()
    (problem,) = reader().index(shard).problems
    assert problem.error_type == "missing_shard"
    with pytest.raises(ReadFailure, match="FileNotFoundError"):
        list(reader().read(shard, samples))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a/b.c.jpg", ("a/b", "c.jpg")), ("./x.JPG", ("x", "JPG")), ("a.b/c", ("a.b/c", "")), ("._x.jpg", ("", ""))],
)
def test_keys_end_at_the_first_dot_of_the_file_name(name: str, expected: tuple[str, str]) -> None:
    assert split_key(name) == expected


def test_the_plain_image_is_preferred_to_masks(tmp_path: Path) -> None:
    samples = reader().index(shard_of(write_tar(tmp_path / "a.tar", [("x.seg.png", b"m"), ("x.png", b"i")]))).samples
    part = image_part(samples[0])
    assert part is not None
    assert part.name == "png"
