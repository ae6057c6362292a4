"""What URIs mean and how messages show them: percent-escapes, data: URIs, names that are not UTF-8."""

import base64
import os
from pathlib import Path

import pytest

from conf.source import FetchConfig, RetryConfig
from pipeline.source.readers.fetching.fetch import fetch_all
from pipeline.source.readers.fetching.uris import absolute, local_path, scheme_of, shown
from pipeline.source.readers.fetching.web import FetchProblem
from pipeline.text import storable

PIXELS = bytes(range(256)) * 40


def fetch(uri: str, config: FetchConfig = FetchConfig(max_bytes=20_000)) -> bytes | FetchProblem:  # noqa: B008
    return next(fetch_all([uri], config, RetryConfig(outage_s=0)))


def test_files_are_found_by_escaped_plain_and_odd_names(tmp_path: Path) -> None:
    for name in ("a b.jpg", "a%20c.jpg", "é.jpg", "x::y.jpg", "[1].jpg", "q?.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    caf = os.fsdecode(b"caf\xe9.jpg")
    (tmp_path / caf).write_bytes(b"caf")
    for uri, content in {
        f"file://{tmp_path}/a%20b.jpg": b"a b.jpg",
        f"file://localhost{tmp_path}/a%20b.jpg": b"a b.jpg",
        f"FILE://{tmp_path}/%C3%A9.jpg": "é.jpg".encode(),
        f"file://{tmp_path}/a%20c.jpg": b"a%20c.jpg",  # written by somebody who escapes nothing
        f"{tmp_path}/a%20c.jpg": b"a%20c.jpg",
        f"{tmp_path}/x::y.jpg": b"x::y.jpg",
        f"{tmp_path}/[1].jpg": b"[1].jpg",
        f"file://{tmp_path}/q?.jpg": b"q?.jpg",
        f"file://{tmp_path}/caf%E9.jpg": b"caf",
        f"{tmp_path}/{caf}": b"caf",
        f"{tmp_path}/{storable(caf)}": b"caf",  # as our own tables write it
    }.items():
        assert fetch(uri) == content, ascii(uri)


def test_one_uri_cannot_reach_inside_another_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    for uri in (f"memory://x::file://{tmp_path}/secret", f"simplecache::file://{tmp_path}/secret"):
        problem = fetch(uri, FetchConfig(schemes=("memory", "file")))
        assert isinstance(problem, FetchProblem)
        assert problem.error_type == "missing_file"


@pytest.mark.parametrize(
    "uri",
    [
        "data:image/png;base64," + base64.b64encode(PIXELS).decode(),
        "DATA:;BASE64," + base64.b64encode(PIXELS).decode().rstrip("="),
        "data:;base64," + base64.urlsafe_b64encode(PIXELS).decode(),
        "data:image/png;base64,\n" + base64.encodebytes(PIXELS).decode(),
        "data:image/png;base64," + base64.b64encode(PIXELS).decode().replace("+", "%2B").replace("/", "%2F"),
        "data:," + "".join(f"%{byte:02X}" for byte in PIXELS),
    ],
)
def test_a_data_uri_is_its_image(uri: str) -> None:
    assert fetch(uri) == PIXELS


def test_a_data_uri_is_capped_and_never_echoed() -> None:
    for uri, error_type in {
        "data:image/png;base64," + "A" * 100_000: "too_large",
        "data:," + "A" * 100_000: "too_large",
        "data:image/png;base64," + "!" * 9_000: "bad_uri",
        "data:" + "A" * 100_000: "bad_uri",
    }.items():
        problem = fetch(uri)
        assert isinstance(problem, FetchProblem)
        assert problem.error_type == error_type
        assert len(problem.message) < 300
        problem = fetch(uri, FetchConfig(schemes=("https",)))
        assert isinstance(problem, FetchProblem)
        assert (problem.error_type, len(problem.message) < 300) == ("forbidden_scheme", True)


def test_messages_show_uris_on_one_line_and_short() -> None:
    assert shown("https://h/a.jpg") == "https://h/a.jpg"
    assert (
        shown("data:image/png;base64," + "A" * 5000) == "data:image/png;base64,AAAAAAAAAAAAAAAAAA... (5022 characters)"
    )
    assert len(shown("https://h/" + "q" * 10_000)) < 240
    assert shown("a\nb\x1b[31m") == "a b [31m"
    assert shown("caf\udce9") == "caf\\udce9"


def test_paths_are_beside_the_manifest() -> None:
    for uri, base, expected in (
        ("a/b.jpg", "https://h/x/m.csv?sig=1/2", "https://h/x/a/b.jpg"),
        ("/b.jpg", "https://h/x/m.csv", "https://h/b.jpg"),
        ("//[", "https://h/x/m.csv", "//["),
        ("data:,x", "s3://b/m.csv", "data:,x"),
        ("/a.jpg", "s3://b/m.csv", "/a.jpg"),
        ("a%20b.jpg", "s3://b/x/m.csv", "s3://b/x/a%20b.jpg"),
    ):
        assert absolute(uri, base) == expected


def test_a_file_uri_may_have_one_slash(tmp_path: Path) -> None:
    (tmp_path / "a b.png").write_bytes(b"x")
    for spelled in (f"file:{tmp_path}/a%20b.png", f"FILE:{tmp_path}/a b.png", f"file://{tmp_path}/a b.png"):
        uri = absolute(spelled, "/elsewhere/list.txt")
        assert (scheme_of(uri), local_path(uri)) == ("file", str(tmp_path / "a b.png"))
    assert local_path(absolute("file:a.png", "/x/list.txt")) == "/x/file:a.png"
