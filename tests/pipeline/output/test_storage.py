"""Files appear whole or not at all, on local disk and on an object store."""

import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from conf.errors import OutputFailed, UserError
from pipeline.output.storage import Storage, is_temporary


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return Storage(str(tmp_path / "out"))
    fsspec.filesystem("memory").store.clear()
    return Storage("memory://bucket/out")


def test_write_read_list_remove(storage: Storage) -> None:
    assert storage.names("a") == []
    storage.write("a/x", b"1")
    storage.write("a/b/y", b"2")
    storage.write("a/x", b"3")
    assert (storage.read("a/x"), storage.read("a/b/y")) == (b"3", b"2")
    assert storage.names("a") == ["x"]
    assert storage.walk("a") == ["b/y", "x"]
    storage.remove(["a/x", "a/never-was"])
    assert not storage.exists("a/x")
    with pytest.raises(FileNotFoundError):
        storage.read("a/x")
    storage.remove_folder("a")
    storage.remove_folder("a")
    assert storage.walk("a") == []


def test_create_succeeds_once(storage: Storage) -> None:
    assert storage.create("state/lease", b"mine")
    assert not storage.create("state/lease", b"yours")
    assert storage.read("state/lease") == b"mine"
    assert storage.walk("state") == ["lease"]


def test_tables_keep_rows_and_metadata(storage: Storage) -> None:
    table = pa.table({"a": [1, 2]}).replace_schema_metadata({"k": "v"})
    storage.write_table("t.parquet", table)
    assert storage.read_table("t.parquet").equals(table)
    assert storage.read_metadata("t.parquet")[b"k"] == b"v"


def test_it_travels_to_workers(storage: Storage) -> None:
    storage.write("x", b"1")
    assert pickle.loads(pickle.dumps(storage)).read("x") == b"1"


def test_a_writer_killed_half_way_leaves_only_a_hidden_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(str(tmp_path))
    storage.write("d/x", b"before")

    def die(*_: object) -> None:
        raise SystemExit

    monkeypatch.setattr(os, "replace", die)
    monkeypatch.setattr(os, "unlink", lambda path: None)
    with pytest.raises(SystemExit):
        storage.write("d/x", b"after")
    assert storage.read("d/x") == b"before"
    assert [is_temporary(name) for name in storage.walk("d")] == [True, False]


@pytest.mark.parametrize("code", ["ENOSPC", "EDQUOT", "EROFS", "EACCES", "EIO"])
@pytest.mark.parametrize("call", ["makedirs", "fsync", "replace", "link"])
def test_a_file_system_that_takes_no_more_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, call: str
) -> None:
    """Also no temporary files, which would eat up the rest of a full disk."""
    storage = Storage(str(tmp_path))
    storage.write("d/x", b"before")

    def fail(*_: object, **__: object) -> None:
        raise OSError(getattr(errno, code), "said in some other way")

    monkeypatch.setattr(os, call, fail)
    write = (lambda: storage.create("d/new", b"1")) if call == "link" else (lambda: storage.write("d/x", b"after"))
    with pytest.raises(OutputFailed, match=r"^cannot write to '.*': .*; nothing is half-written") as no:
        write()
    assert no.value.exit_code == 5
    assert os.strerror(getattr(errno, code)) in str(no.value)
    assert storage.read("d/x") == b"before"
    assert storage.walk("") == ["d/x"]


def test_where_there_are_no_hard_links_a_file_is_created_once_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", fail)
    storage = Storage(str(tmp_path))
    assert storage.create("x", b"mine")
    assert not storage.create("x", b"yours")
    assert (storage.walk(""), storage.read("x")) == (["x"], b"mine")


@pytest.mark.parametrize("call", ["link", "replace"])
def test_another_run_may_clear_temporaries_at_that_very_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    storage = Storage(str(tmp_path))
    place, cleared = getattr(os, call), []

    def late(temporary: str, path: str) -> None:
        if not cleared:
            cleared.extend(f"d/{name}" for name in storage.names("d") if is_temporary(name))
            storage.remove(cleared)
        place(temporary, path)

    monkeypatch.setattr(os, call, late)
    if call == "link":
        assert storage.create("d/x", b"1")
    else:
        storage.write("d/x", b"1")
    assert (storage.walk(""), storage.read("d/x")) == (["d/x"], b"1")


def test_an_output_below_a_file_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is below a file"):
        Storage(f"{tmp_path}/file/out").write("x", b"1")


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Storage("runs/x").url == f"{tmp_path}/runs/x"


def test_a_storage_that_fails_does_not_look_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local, remote = Storage(str(tmp_path / "out")), Storage("memory://bucket/refused")
    for storage in (local, remote):
        storage.write("d/x.json", b"{}")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("no")

    for kind, name in ((os, "scandir"), (os, "stat"), (MemoryFileSystem, "info"), (MemoryFileSystem, "cat_file")):
        with monkeypatch.context() as patch:
            patch.setattr(kind, name, refuse)
            storage = local if kind is os else remote
            look = {"scandir": storage.walk, "cat_file": storage.read_json}.get(name, storage.exists)
            with pytest.raises((PermissionError, UserError)):
                look("d" if name == "scandir" else "d/x.json")
    assert local.exists("d/x.json")
    assert not local.exists("d/x.json/y")
    assert not local.exists("d/y")
    assert (local.read_json("d/x.json"), local.read_json("d/y")) == ({}, None)


def test_reading_a_table_leaves_no_thread_that_could_abort_the_process_when_it_ends(tmp_path: Path) -> None:
    """A thread of Arrow that lets go of a Python object when the interpreter is gone does: 134 as exit code, not 2."""
    Storage(str(tmp_path)).write_table("t.parquet", pa.table({f"column{n}": ["x"] * 1000 for n in range(20)}))
    code = (
        "import os, sys; from pipeline.output.storage import Storage;"
        "threads = lambda: len(os.listdir('/proc/self/task')); "
        "storage = Storage(sys.argv[1]); before = threads(); assert storage.read_table('t.parquet').num_rows == 1000; "
        "print(threads() - before); sys.exit(2)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "0\n", "")
