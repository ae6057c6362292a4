"""The tar reader beside Python's own: what is written in any dialect is found by both, links included."""

import gzip
import io
import posixpath
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.source.plan import Shard
from pipeline.source.readers import RawSample
from pipeline.source.readers.byte_ranges import open_stream
from pipeline.source.readers.tar import Kind, Member, follow_links, iter_members
from pipeline.source.readers.webdataset import WebDatasetReader
from pipeline.text import storable

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = "") -> None:
    header = tarfile.TarInfo(name)
    header.type, header.linkname, header.size = kind, target, len(data)
    tar.addfile(header, io.BytesIO(data))


def shard_of(path: Path) -> Shard:
    return Shard(path.name.split(".")[0], str(path), path.stat().st_size)


def read_all(path: Path, **options: object) -> list[RawSample]:
    reader = WebDatasetReader(("unused",), **options)  # type: ignore[arg-type]
    contents = reader.index(shard_of(path))
    assert contents.problems == ()
    return list(reader.read(shard_of(path), contents.samples))


def members_of(path: Path) -> list[Member]:
    with open_stream(str(path)) as stream:
        return follow_links(list(iter_members(stream, lambda _: True)))


def as_tarfile_reads(path: Path) -> list[tuple[str, bytes | None]]:
    """(name, content) of files and links; None: a link that leads nowhere."""
    found: list[tuple[str, bytes | None]] = []
    with tarfile.open(path) as tar:
        for info in tar.getmembers():
            if info.isreg() or info.issym() or info.islnk():
                try:
                    file = tar.extractfile(info)
                    found.append((storable(info.name), file.read() if file is not None else None))
                except (KeyError, RecursionError):
                    found.append((storable(info.name), None))
    return found


def as_we_read(path: Path) -> list[tuple[str, bytes | None]]:
    whole = path.read_bytes()
    if path.suffix == ".gz":
        whole = gzip.decompress(whole)
    with open_stream(str(path)) as stream:
        listed = list(iter_members(stream))
    return [
        (m.name, whole[m.offset : m.offset + m.size] if m.kind is Kind.FILE else None)
        for m, before in zip(follow_links(listed), listed, strict=True)
        if before.kind not in (Kind.FOLDER, Kind.SPECIAL)
    ]


NAMES = st.one_of(
    st.sampled_from(["a.jpg", "b/c.jpg", "b/d.png", "./e.jpg", "é/ü.jpg", "x" * 99 + ".jpg", "d/" * 60 + "f.jpg"]),
    st.text("abc/.é\udce9\\ ", min_size=1, max_size=12).map(lambda t: posixpath.normpath(t).strip("/") or "a"),
)
ENTRIES = st.lists(
    st.tuples(
        NAMES,
        st.one_of(
            st.binary(max_size=700),
            st.tuples(st.sampled_from([tarfile.SYMTYPE, tarfile.LNKTYPE]), NAMES),
            st.sampled_from([tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]),
            st.just(b"sparse"),
        ),
        st.booleans(),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=ENTRIES, form=st.sampled_from(FORMATS), packed=st.booleans(), comment=st.booleans())
def test_every_archive_is_read_as_pythons_own_reader_does(
    tmp_path: Path, entries: list[tuple[str, object, bool]], form: int, packed: bool, comment: bool
) -> None:
    path = tmp_path / ("a.tar.gz" if packed else "a.tar")
    headers = {"comment": "of all"} if comment and form == tarfile.PAX_FORMAT else None
    with tarfile.open(path, "w:gz" if packed else "w", format=form, pax_headers=headers) as tar:
        for name, what, odd in entries:
            try:
                if isinstance(what, tuple):
                    add(tar, name, kind=what[0], target=what[1])
                elif isinstance(what, bytes) and what in (tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE) and odd:
                    add(tar, name, kind=what)
                else:
                    assert isinstance(what, bytes)
                    add(tar, name, what)
            except ValueError:  # ustar cannot hold every name
                continue
    if members_of(path) == []:
        return  # Python's reader takes an empty archive with a comment for none
    theirs, ours = as_tarfile_reads(path), as_we_read(path)
    assert [name for name, _ in ours] == [name for name, _ in theirs]
    for (name, mine), (_, other) in zip(ours, theirs, strict=True):
        assert mine == other, name


def with_size(path: Path, size: int) -> None:
    """Every header of a link gets a size, as some writers do; no bytes follow."""
    data = bytearray(path.read_bytes())
    for start in range(0, len(data), 512):
        block = data[start : start + 512]
        if block[257:262] == b"ustar" and block[156:157] in (b"1", b"2", b"5", b"6"):
            block[124:136], block[148:156] = b"%011o\0" % size, b" " * 8
            block[148:156] = b"%06o\0 " % sum(block)
            data[start : start + 512] = block
    path.write_bytes(data)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", FORMATS)
def test_headers_of_links_and_folders_with_a_size_lose_no_file(tmp_path: Path, form: int, packed: bool) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=form) as tar:
        add(tar, "d", kind=tarfile.DIRTYPE)
        add(tar, "d/1.jpg", b"one")
        add(tar, "d/2.jpg", kind=tarfile.LNKTYPE, target="d/1.jpg")
        add(tar, "3.jpg", b"three")
        add(tar, "d/4.jpg", kind=tarfile.SYMTYPE, target="../3.jpg")
        add(tar, "pipe", kind=tarfile.FIFOTYPE)
        add(tar, "5.jpg", b"five")
    with_size(path, 1000)
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    assert [(raw.sample.key, raw.image) for raw in read_all(path)] == [
        ("d/1", b"one"),
        ("d/2", b"one"),
        ("3", b"three"),
        ("d/4", b"three"),
        ("5", b"five"),
    ]


def test_a_hard_link_that_brings_its_file_has_it(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        add(tar, "1.jpg", b"one" * 300)
        add(tar, "2.jpg", b"two" * 300)
        add(tar, "3.jpg", b"three")
    data = bytearray(path.read_bytes())
    at = 512 + 1024  # the header of 2.jpg
    data[at + 156 : at + 157], data[at + 148 : at + 156] = b"1", b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    path.write_bytes(data)
    assert [raw.image for raw in read_all(path)] == [b"one" * 300, b"two" * 300, b"three"]


def test_links_to_nothing_are_rows_with_a_reason(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "loop.jpg", kind=tarfile.SYMTYPE, target="pool.jpg")
        add(tar, "pool.jpg", kind=tarfile.SYMTYPE, target="loop.jpg")
        add(tar, "out.jpg", kind=tarfile.SYMTYPE, target="/data/out.jpg")
        add(tar, "early.jpg", kind=tarfile.LNKTYPE, target="late.jpg")
        add(tar, "late.jpg", b"late")
        add(tar, "side.jpg", b"side")
        add(tar, "side.json", kind=tarfile.SYMTYPE, target="gone.json")
        add(tar, "d/x.jpg", b"x")
        add(tar, "latest.v1", kind=tarfile.SYMTYPE, target="d")
    found = {raw.sample.key: raw.error_type or raw.image for raw in read_all(tmp_path / "a.tar")}
    assert found == {
        **dict.fromkeys(("loop", "pool", "out", "early", "side"), "broken_link"),
        "late": b"late",
        "d/x": b"x",
    }
    found = {raw.sample.key: raw.error_type or raw.image for raw in read_all(tmp_path / "a.tar", fields=())}
    assert found["side"] == b"side"  # nobody asks for its fields


@pytest.mark.parametrize("form", ["gnu", "pax --sparse-version=0.0", "pax --sparse-version=0.1", "pax"])
def test_a_sparse_file_is_a_row_with_a_reason_and_those_around_it_are_read(tmp_path: Path, form: str) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a" * 700)
    with (tmp_path / "b.jpg").open("wb") as stream:
        for n in range(40):  # more pieces than the header has room for
            stream.seek(n * 131072)
            stream.write(b"piece")
    (tmp_path / "c.jpg").write_bytes(b"c" * 700)
    if (holes := (tmp_path / "b.jpg").stat()).st_blocks * 512 >= holes.st_size:
        pytest.skip("this file system keeps no holes")
    command = f"tar --sparse --format={form} -cf s.tar a.jpg b.jpg c.jpg"
    subprocess.run(command.split(), cwd=tmp_path, check=True)
    found = {raw.sample.key: raw.error_type or raw.image for raw in read_all(tmp_path / "s.tar")}
    assert found == {"a": b"a" * 700, "b": "sparse_file", "c": b"c" * 700}


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz"])
@pytest.mark.parametrize("name", ["a.tar", "a.tar.zst", "{}"])
def test_compression_is_told_by_the_bytes(tmp_path: Path, compression: str, name: str) -> None:
    path = tmp_path / name.format(f"a.tar.{compression}")
    with tarfile.open(str(path), f"w:{compression}") as tar:  # type: ignore[call-overload]
        for n in range(3):
            add(tar, f"{n}.jpg", b"%d" % n * 2000)
        add(tar, "again.jpg", kind=tarfile.SYMTYPE, target="0.jpg")
    assert [raw.image for raw in read_all(path)] == [b"0" * 2000, b"1" * 2000, b"2" * 2000, b"0" * 2000]


def test_a_plain_archive_called_compressed_is_read(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w") as tar:
        add(tar, "x.jpg", b"x")
    assert [raw.image for raw in read_all(tmp_path / "a.tar.gz")] == [b"x"]


def test_names_that_are_no_text_keep_their_bytes(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        add(tar, "caf\udce9.jpg", b"1")
        add(tar, "caf\udcea.jpg", b"2")
    assert [raw.sample.key for raw in read_all(tmp_path / "a.tar")] == ["caf\\udce9", "caf\\udcea"]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_archives_one_behind_the_other_are_one(tmp_path: Path, suffix: str) -> None:
    pieces = []
    for number, form in enumerate(FORMATS):
        path = tmp_path / "piece.tar"
        with tarfile.open(path, "w", format=form) as tar:
            add(tar, f"{number}.jpg", b"%d" % number * 700)
            add(tar, f"{number}.txt", b"text %d" % number)
        pieces.append(path.read_bytes() if not suffix else gzip.compress(path.read_bytes()))
    whole = tmp_path / f"whole.tar{suffix}"
    whole.write_bytes(b"".join(pieces))
    rows = read_all(whole)
    assert [(row.sample.key, row.image, row.fields) for row in rows] == [
        (str(number), b"%d" % number * 700, {"txt": f"text {number}"}) for number in range(len(FORMATS))
    ]


def test_what_lies_behind_the_end_and_is_no_archive_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, "a.jpg", b"image")
    whole = path.read_bytes()
    nothing, something = (b"", bytes(700)), (b"x", b"x" + whole, bytes(1024) + b"y" * 512)
    for tail in (*nothing, *something):
        path.write_bytes(whole + tail)
        contents = WebDatasetReader(("unused",)).index(shard_of(path))
        assert [sample.key for sample in contents.samples] == ["a"]
        assert contents.problems == ()
        counts = [one.count for one in contents.left_out if one.reason == "bytes_after_the_end"]
        assert counts == [1] * (tail in something)
