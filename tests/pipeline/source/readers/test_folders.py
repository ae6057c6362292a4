"""What is in a folder: images whatever they are called, and everything else counted by reason; nothing is lost."""

import io
import json
import os
import socket
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import fsspec
import pytest
from PIL import Image

from conf.errors import UserError
from conf.source import SourceConfig, SourceKind
from pipeline.source.plan import LeftOut, Listing, Shard
from pipeline.source.readers import RawSample, make_reader
from pipeline.source.readers.folders import folder_shards
from pipeline.source.readers.images import ImageFolderReader
from pipeline.source.shard_index import ShardIndex
from pipeline.text import original
from tests.shards import image_bytes

PNG = image_bytes((1, 2, 3))


def write(folder: Path, *names: str, data: bytes = PNG) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def keys(listing: Listing) -> list[str]:
    return [member for shard in listing.shards for member in shard.members]


def reasons(listing: Listing) -> dict[str, int]:
    return {part.reason: part.count for part in listing.left_out}


def read_all(reader: ImageFolderReader, shards: Sequence[Shard]) -> list[RawSample]:
    """Through the table an index is saved as, as a run does."""
    read: list[RawSample] = []
    for shard in shards:
        index = ShardIndex.from_table(ShardIndex.of(reader.index(shard), 100).to_table())
        read.extend(reader.read(shard, index.samples))
    return read


def fields_of(folder: Path, *fields: str) -> dict[str, dict[str, Any]]:
    reader = ImageFolderReader((str(folder),), fields or ("*",))
    read = read_all(reader, reader.shards(()).shards)
    assert all(raw.error_type is None for raw in read), [raw.message for raw in read]
    return {raw.sample.key: raw.fields for raw in read}


def encoded(form: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (20, 20)).save(stream, form)
    return stream.getvalue()


def test_images_are_found_by_suffix_and_where_it_says_nothing_by_content(tmp_path: Path) -> None:
    suffixes = ["jfif", "jpe", "tga", "ico", "j2k", "mpo", "pgm", "dib", "apng", "heic", "JPG"]
    write(tmp_path, *(f"by_suffix.{suffix}" for suffix in suffixes), data=b"whatever")
    write(tmp_path, "no_suffix", "22.05", "photo (v1.2)", "x.orig", "deep.er/y")
    write(tmp_path, "jpeg_inside", data=encoded("JPEG"))
    write(tmp_path, "README", "x.unknown", data=b"words")
    write(tmp_path, "empty", data=b"")
    write(tmp_path, "film.mp4", "table.csv")
    listing = ImageFolderReader((str(tmp_path),)).shards(())
    by_content = ["no_suffix", "22.05", "photo (v1.2)", "x.orig", "deep.er/y", "jpeg_inside"]
    assert set(keys(listing)) == {*(f"by_suffix.{suffix}" for suffix in suffixes), *by_content}
    assert reasons(listing) == {"other_files": 5}
    (part,) = listing.left_out
    assert sorted(part.examples) == ["README", "empty", "film.mp4", "table.csv", "x.unknown"]


def test_remote_folders_are_looked_into_as_well() -> None:
    fs = fsspec.filesystem("memory")
    files = {"a.jpg": PNG, "b": PNG, "c": b"words", "._a.jpg": b"x", "d/.git/e.png": PNG, "f.txt": b"x"}
    for name, data in files.items():
        fs.pipe_file(f"/pictures-{os.getpid()}/{name}", data)
    listing = ImageFolderReader((f"memory://pictures-{os.getpid()}",)).shards(())
    assert keys(listing) == ["a.jpg", "b"]
    assert reasons(listing) == {"hidden_files": 2, "other_files": 2}


def test_hidden_files_and_litter_are_left_out_and_named(tmp_path: Path) -> None:
    write(tmp_path, *(f"{n}.jpg" for n in range(3)), *(f"._{n}.jpg" for n in range(3)))
    litter = (".ipynb_checkpoints/0.jpg", "@eaDir/0.jpg/SYNO.jpg", "__MACOSX/._0.jpg", "Thumbs.db", ".DS_Store")
    write(tmp_path, *litter, ".git/objects/ab", "x/.hidden/a.png")
    listing = ImageFolderReader((str(tmp_path),)).shards(())
    assert keys(listing) == ["0.jpg", "1.jpg", "2.jpg"]
    assert reasons(listing) == {"hidden_files": 10}
    assert "._0.jpg" in listing.left_out[0].examples
    assert len(listing.left_out[0].examples) == 5


def test_pipes_sockets_and_devices_hang_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a.png", "b.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "null.png").symlink_to("/dev/null")
    monkeypatch.chdir(tmp_path)  # the name of a socket may not be long
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
    reader = ImageFolderReader((str(tmp_path),))
    listing = reader.shards(())
    assert keys(listing) == ["a.png", "b.png"]
    assert reasons(listing) == {"special_files": 3}
    (tmp_path / "b.png").unlink()
    os.mkfifo(tmp_path / "b.png")  # what was planned as a file
    assert [raw.error_type for raw in read_all(reader, listing.shards)] == [None, "not_a_file"]


def test_linked_folders_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    folder = write(tmp_path / "pictures", "a.png", "sub/b.png")
    other = write(tmp_path / "elsewhere", "c.png", "deep/d.png")
    (folder / "linked").symlink_to(other)
    (folder / "again").symlink_to(other / "deep")  # read as again/d.png: links are followed by name
    (folder / "sub" / "up").symlink_to(folder)
    (other / "out").symlink_to(tmp_path)  # holds the source itself
    (folder / "twice").symlink_to(folder / "sub")
    (folder / "file.png").symlink_to(other / "c.png")
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (folder / "self.png").symlink_to(folder / "self.png")
    reader = ImageFolderReader((str(folder),))
    listing = reader.shards(())
    assert keys(listing) == ["a.png", "again/d.png", "file.png", "linked/c.png", "sub/b.png"]
    assert reasons(listing) == {"repeated_folder_links": 4, "broken_links": 2}
    assert all(raw.image == PNG for raw in read_all(reader, listing.shards))


def test_the_output_of_a_run_inside_the_source_is_no_source(tmp_path: Path) -> None:
    write(tmp_path, "a.png", "captions/_state/config.json", "captions/run.json", "captions/kept.png", "captioned/b.png")
    listing = ImageFolderReader((str(tmp_path),)).shards(())
    assert keys(listing) == ["a.png", "captioned/b.png"]
    assert reasons(listing) == {"run_output_files": 3}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_folders_that_may_not_be_read_are_named(tmp_path: Path) -> None:
    write(tmp_path, "a.png", "closed/b.png")
    (tmp_path / "closed").chmod(0)
    listing = ImageFolderReader((str(tmp_path),)).shards(())
    (tmp_path / "closed").chmod(0o700)
    assert (keys(listing), reasons(listing)) == (["a.png"], {"unreadable_folders": 1})


def test_names_that_are_not_utf8_go_through_every_table(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/pictures \xe9"))
    odd = os.fsdecode(b"caf\xe9.jpg")
    write(folder, odd, "looks \\udce9 odd.jpg", os.fsdecode(b"d\xff/b.png"), "plain.png")
    write(folder, os.fsdecode(b"caf\xe9.txt"), data=b"a cup")
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": odd, "n": 1}))
    source = SourceConfig(kind=SourceKind.IMAGES, paths=(str(folder),), passthrough=("n", "txt"))
    reader = make_reader(source)
    assert isinstance(reader, ImageFolderReader)
    (shard,) = reader.shards(()).shards
    read = read_all(reader, json_round_trip([shard]))
    assert [raw.image for raw in read] == [PNG] * 4
    assert {raw.sample.key for raw in read} == {
        "caf\\udce9.jpg",
        "looks \\\\udce9 odd.jpg",
        "d\\udcff/b.png",
        "plain.png",
    }
    assert {original(raw.sample.key) for raw in read} >= {odd}
    assert next(raw.fields for raw in read if raw.sample.key == "caf\\udce9.jpg") == {
        "file_name": odd,
        "n": 1,
        "txt": "a cup",
    }


def json_round_trip(shards: Iterable[Shard]) -> list[Shard]:
    """As shards travel to their tasks."""
    return [Shard.from_json(shard.to_json()) for shard in shards]


def test_metadata_of_sub_folders_is_relative_to_them_and_the_nearest_counts(tmp_path: Path) -> None:
    write(tmp_path, "a.png", "sub/b.png", "sub/deep/c.png", "other/d.png")
    (tmp_path / "metadata.csv").write_text("file_name,n\na.png,1\nsub/b.png,0\nother/d.png,4\n")
    (tmp_path / "sub" / "metadata.jsonl").write_text(
        '{"file_name": "b.png", "n": 2}\n{"file_name": "deep/c.png", "n": 3}'
    )
    found = {name: int(fields["n"]) for name, fields in fields_of(tmp_path).items()}
    assert found == {"a.png": 1, "sub/b.png": 2, "sub/deep/c.png": 3, "other/d.png": 4}


def test_names_in_metadata_may_have_other_slashes_and_another_normal_form(tmp_path: Path) -> None:
    nfc, nfd = unicodedata.normalize("NFC", "é.png"), unicodedata.normalize("NFD", "é.png")
    write(tmp_path, f"sub/{nfd}", "sub/b.png", "both/x.png")
    write(tmp_path / "both", nfc, nfd)
    names = [f"sub\\{nfc}", ".\\sub\\b.png", f"both/{nfc}", f"both/{nfd}"]
    (tmp_path / "metadata.jsonl").write_text(
        "\n".join(json.dumps({"file_name": n, "n": i}) for i, n in enumerate(names))
    )
    found = {name: fields.get("n") for name, fields in fields_of(tmp_path).items()}
    assert found == {f"sub/{nfd}": 0, "sub/b.png": 1, f"both/{nfc}": 2, f"both/{nfd}": 3, "both/x.png": None}


def test_records_that_name_no_image_are_counted(tmp_path: Path) -> None:
    write(tmp_path, "a.png")
    (tmp_path / "metadata.jsonl").write_text(
        '{"file_name": "a.png"}\n{"file_name": "gone.png"}\n{"name": "x"}\nno json'
    )
    listing = ImageFolderReader((str(tmp_path),), ("*",)).shards(())
    assert reasons(listing) == {"metadata_records_of_no_image": 1, "bad_metadata_records": 2, "metadata_files": 1}
    assert next(part.examples for part in listing.left_out if part.count == 1) in (("gone.png",), ("metadata.jsonl",))
    assert reasons(ImageFolderReader((str(tmp_path),)).shards(())) == {"metadata_files": 1}


def test_sidecars_become_fields(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", "b.png", "c.jpg", "sub/d.JPEG")
    write(tmp_path, "a.txt", data="\ufeffa cat, très grand".encode())
    write(tmp_path, "a.caption", data=b"one cat")
    write(tmp_path, "b.json", data=b'{"n": 5, "tags": ["x"]}')
    write(tmp_path, "c.json", data=b"[1, 2]")
    write(tmp_path, "c.jpg.json", data=b'{"title": "nearer"}')
    write(tmp_path, "sub/d.TXT", data=b"upper")
    write(tmp_path, "lonely.txt", data=b"beside nothing")
    assert fields_of(tmp_path) == {
        "a.jpg": {"txt": "a cat, très grand", "caption": "one cat"},
        "b.png": {"n": 5, "tags": ["x"]},
        "c.jpg": {"json": [1, 2], "title": "nearer"},
        "sub/d.JPEG": {"txt": "upper"},
    }
    assert fields_of(tmp_path, "txt")["a.jpg"] == {"txt": "a cat, très grand"}
    assert reasons(ImageFolderReader((str(tmp_path),)).shards(())) == {"sidecar_files": 6, "other_files": 1}


def test_what_is_wrong_with_a_sidecar_costs_its_image_alone(tmp_path: Path) -> None:
    write(tmp_path, "a.png", "b.png", "c.png", "d.png")
    write(tmp_path, "a.json", data=b"{")
    write(tmp_path, "b.json", data=b"[" * 100_000)
    write(tmp_path, "c.json", data=b"{}")
    reader = ImageFolderReader((str(tmp_path),), ("n",))
    shards = reader.shards(()).shards
    (tmp_path / "c.json").unlink()
    read = read_all(reader, shards)
    assert [raw.error_type for raw in read] == ["bad_json", "bad_json", "missing_file", None]
    assert "c.json is gone" in str(read[2].message)


def test_a_folder_that_lost_files_goes_on_and_new_files_make_shards_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_shards, "FILES_PER_SHARD", 3)
    write(tmp_path / "photos", "b.png", "d.png", "._b.png")
    reader = ImageFolderReader((f"{tmp_path}/photos",))
    first = reader.shards(()).shards
    assert [(shard.name, shard.members) for shard in first] == [("photos", ("b.png", "d.png"))]
    (tmp_path / "photos" / "._b.png").unlink()
    assert reader.shards(first).shards == first
    (tmp_path / "photos" / "b.png").unlink()
    assert reader.shards(first).shards == first, "planned stays planned"
    assert [raw.error_type for raw in read_all(reader, first)] == ["missing_file", None]
    write(tmp_path / "photos", *(f"{n}.png" for n in range(5)))
    second = reader.shards(first).shards
    assert [(shard.name, shard.members) for shard in second] == [
        ("photos", ("b.png", "d.png")),
        ("photos-00001", ("0.png", "1.png", "2.png")),
        ("photos-00002", ("3.png", "4.png")),
    ]
    assert reader.shards(second).shards == second
    write(tmp_path / "photos", "a.png")
    assert [shard.name for shard in reader.shards(second).shards] == [*(s.name for s in second), "photos-00003"]
    write(tmp_path / "photos", "d.png", data=PNG + b"longer")
    write(tmp_path / "photos", "b.png")
    third = reader.shards(second)
    assert third.shards[0] == first[0], "planned stays planned"
    assert third.changed == (LeftOut("changed_files", 1, ("d.png",)),)


def test_folders_of_one_name_keep_theirs_when_others_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_shards, "FILES_PER_SHARD", 2)
    write(tmp_path, "x/photos/a.png", "y/photos/b.png", "z/photos-00001/c.png", "y/photos/d.png", "y/photos/e.png")
    first = ImageFolderReader((f"{tmp_path}/y/photos",)).shards(()).shards
    assert [shard.name for shard in first] == ["photos-00000", "photos-00001"]
    paths = (f"{tmp_path}/x/photos", f"{tmp_path}/y/photos", f"{tmp_path}/z/photos-00001")
    both = ImageFolderReader(paths).shards(first).shards
    names = {shard.name: shard.members for shard in both}
    assert names["photos-00000"] == ("b.png", "d.png")
    assert names["photos-00001"] == ("e.png",)
    assert len(names) == 4
    assert sorted(keys(Listing(both))) == ["a.png", "b.png", "c.png", "d.png", "e.png"]
    fresh = ImageFolderReader(paths).shards(()).shards
    assert len({shard.name for shard in fresh}) == len(fresh) == 4


def test_an_output_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    write(tmp_path / "photos", "a.jpg", "._a.jpg", "b.jfif")
    former = Shard("photos", f"{tmp_path}/photos", 2 * len(PNG))  # its plan has no names of files
    shards = ImageFolderReader((f"{tmp_path}/photos",)).shards([former]).shards
    assert [(shard.name, shard.members) for shard in shards] == [
        ("photos", ("._a.jpg", "a.jpg")),
        ("photos-00001", ("b.jfif",)),
    ]


def test_a_folder_without_images_says_what_is_in_it(tmp_path: Path) -> None:
    write(tmp_path, "._a.jpg", "notes.txt")
    with pytest.raises(UserError, match=r"no image files below .*1 hidden file \(\._a\.jpg\); 1 other file"):
        ImageFolderReader((str(tmp_path),)).shards(())
