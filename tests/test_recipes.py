"""The recipes of docs/architecture.md, followed in a copy of the packages: each adds one thing, and it works."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.shards import image_bytes

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition("## How to add")[2]

SQLITE = '''
import sqlite3
from dataclasses import dataclass, replace

from pipeline.source.plan import Contents, RowRange, Sample
from pipeline.source.readers.reader import FirstFields, RawSample, read_failures, unreadable
from pipeline.source.readers.source_files import list_shards


@dataclass(frozen=True)
class SqliteReader:
    """The table `images` (key, image) of SQLite files, a row for each."""

    paths: tuple
    patience: object

    def shards(self, known):
        return list_shards(self.paths, self.patience, "sqlite", known)

    def field_types(self, shards):
        return {}

    def first_fields(self, shard, most_rows, until_s):
        return FirstFields(("key", "image"), ())

    def spans(self, shard, index, todo):
        return [[chunk] for chunk in todo]

    def with_patience(self, patience):
        return replace(self, patience=patience)

    def index(self, shard):
        try:
            rows = sqlite3.connect(shard.url).execute("SELECT rowid, key FROM images ORDER BY rowid").fetchall()
        except sqlite3.Error as error:
            return Contents(problems=(unreadable(shard, error),))
        return Contents(tuple(Sample(n, key, record=RowRange(rowid, 1)) for n, (rowid, key) in enumerate(rows)))

    def read(self, shard, samples):
        with read_failures():
            for sample in samples:
                query = "SELECT image FROM images WHERE rowid = ?"
                (image,) = sqlite3.connect(shard.url).execute(query, (sample.record.begin,)).fetchone()
                yield RawSample(sample, image)
'''
LONGT5 = '''
"""LongT5: the decoder of T5 behind an encoder of local attention (Guo et al. 2022)."""

from dataclasses import replace

from actors.model.interop import t5

FAMILY = replace(t5.FAMILY, model_class="LongT5ForConditionalGeneration")
'''
LONGT5_ENCODER = """
from transformers import LongT5Config
from transformers.models.longt5.modeling_longt5 import LongT5Stack

from actors.model.pretrained.encoder import PretrainedEncoder


class LongT5Encoder(PretrainedEncoder):
    def __init__(self, model):
        super().__init__(model)
        config = LongT5Config.from_dict(model.encoder.hf_config)
        config.is_decoder, config.use_cache = False, False
        self.stack = LongT5Stack(config)

    @property
    def max_context(self):
        return self.max_prompt_tokens

    def encode(self, pixels_BXYC, prompt_ids_BQ, prompt_mask_BQ):
        states = self.stack(input_ids=prompt_ids_BQ, attention_mask=prompt_mask_BQ.long()).last_hidden_state
        return states, prompt_mask_BQ
"""
ENTROPY = """
    if gate is Gate.ENTROPY:
        log_BV = logits_BV.log_softmax(-1)
        return logits_BV.argmax(-1), 1 + (log_BV.exp() * log_BV).sum(-1) / math.log(logits_BV.shape[-1])
"""
LINES = """
def write(published, out, options):
    from pipeline.exports.options import Exported
    rows = list(published.all_rows(("sample_id", "text")))
    with open(out, "w", encoding="utf-8") as stream:
        stream.writelines(f"{row['sample_id']}: {row['text']}\\n" for row in rows)
    return Exported(len(rows))
"""
HELLO = """
def main(arguments):
    print("hello", *arguments)
    return 0
"""


TINY_LONGT5 = """
def _longt5() -> Any:
    from transformers import LongT5Config, LongT5ForConditionalGeneration

    settings = {**t5().config.to_dict(), "model_type": "longt5", "local_radius": 2}
    return LongT5ForConditionalGeneration(LongT5Config(**settings))

"""


class House:
    """A copy of the packages; what is changed in it must be named by the recipe."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for package in ("conf", "pipeline", "actors", "jobs", "tests"):
            skipped = shutil.ignore_patterns("__pycache__", "old_outputs")
            shutil.copytree(ROOT / package, root / package, ignore=skipped)

    def add(self, path: str, text: str) -> None:
        assert f"`{os.path.dirname(path)}/" in PAGE, path
        assert not (self.root / path).exists()
        (self.root / path).write_text(text, encoding="utf-8")

    def insert(self, path: str, after: str, text: str) -> None:
        """Add lines behind the only ones that read `after`, wherever these are."""
        folder, name = os.path.split(path)
        assert path in PAGE or (f"`{name}`" in PAGE and f"`{folder}/`" in PAGE), path
        file = self.root / path
        before = file.read_text(encoding="utf-8")
        assert before.count(f"{after}\n") == 1, (path, after)
        file.write_text(before.replace(f"{after}\n", f"{after}\n{text}\n"), encoding="utf-8")

    def run(self, *command: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(self.root), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", *command], cwd=self.root, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr
        return done.stdout

    def tests(self, path: str, chosen: str) -> str:
        return self.run(
            "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", ".", "-p", "no:cacheprovider", path, "-k", chosen
        )


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    return House(tmp_path_factory.mktemp("house"))


def test_a_source_and_an_export(house: House, tmp_path: Path) -> None:
    readers = "pipeline/source/readers/__init__.py"
    house.insert("conf/source.py", '    MANIFEST = "manifest"', '    SQLITE = "sqlite"')
    house.insert("conf/source_kinds.py", '    "parquet":    (".parquet",),', '    "sqlite": (".sqlite",),')
    house.add("pipeline/source/readers/sqlite.py", SQLITE)
    house.insert(
        readers, "    fields = field_names(source)", "    from pipeline.source.readers.sqlite import SqliteReader"
    )
    house.insert(
        readers,
        "    readers: dict[SourceKind, Callable[[], Reader]] = {",
        "        SourceKind.SQLITE: lambda: SqliteReader(source.paths, source.retry),",
    )
    house.add("pipeline/exports/lines.py", LINES)
    house.insert("pipeline/exports/options.py", '    CSV = "csv"', '    LINES = "lines"')
    registry = "    exports: dict[Form, Export] = {"
    house.insert("pipeline/exports/__init__.py", registry, "        Form.LINES: lines.write,")
    house.insert(
        "pipeline/exports/__init__.py",
        "from pipeline.exports.rows import Published",
        "from pipeline.exports import lines",
    )

    with sqlite3.connect(tmp_path / "a.sqlite") as database:
        database.execute("CREATE TABLE images (key TEXT, image BLOB)")
        images = [("red", image_bytes((255, 0, 0))), ("broken", b"GIF89a"), ("green", image_bytes((0, 255, 0)))]
        database.executemany("INSERT INTO images VALUES (?, ?)", images)
    config = {
        "source": {"kind": "sqlite", "paths": [str(tmp_path / "*.sqlite")], "prompt": {"template": "what"}},
        "model": {"checkpoint": "none"},
        "output": {"path": str(tmp_path / "out")},
    }
    run = (
        "import json, sys; from conf.schema import JobConfig;"
        "from tests.pipeline.small_run import small_run, error_rows;"
        "config = JobConfig.model_validate(json.loads(sys.argv[1])); small_run(config);"
        "print(json.dumps(error_rows(config.output.path)))"
    )
    assert list(json.loads(house.run("-c", run, json.dumps(config)))) == ["a.sqlite/broken"]
    out = tmp_path / "lines.txt"
    house.run("-m", "jobs.cli", "export", str(tmp_path / "out"), "--to", "lines", "--out", str(out))
    assert out.read_text() == "".join(f"a.sqlite/{key}: a.sqlite/{key}: what\n" for key in ("red", "green"))


def test_a_family(house: House) -> None:
    house.add("actors/model/interop/longt5.py", LONGT5)
    house.add("actors/model/pretrained/longt5.py", LONGT5_ENCODER)
    families = "actors/model/interop/families.py"
    house.insert(families, "from typing import Any", "from actors.model.interop import longt5")
    house.insert(families, "FAMILIES: dict[str, Family | Choice] = {", '    "longt5": longt5.FAMILY,')
    house.insert("conf/encoder.py", "    model_type: Literal[", '        "longt5",')
    house.insert("actors/model/encoders.py", "_PRETRAINED = {", '    "longt5": ("longt5", "LongT5Encoder"),')
    house.insert("actors/model/encoders.py", "_SHARES_EMBEDDING = {", '    "longt5",')
    cases = "tests/actors/interop/sources.py"
    house.insert(cases, "STEPS = 12", TINY_LONGT5)
    house.insert(cases, "CASES: dict[str, Case] = {", '    "longt5": Case(_longt5, text_inputs, 32),')
    assert "1 passed" in house.tests("tests/actors/interop/test_parity.py", "equal_those_of_transformers and longt5")


def test_a_gate(house: House) -> None:
    house.insert("conf/engine.py", '    SOFTMAX_DIFF = "softmax_diff"', '    ENTROPY = "entropy"')
    said = "        return token_B, logits_BV.softmax(-1).gather(-1, token_B[:, None])[:, 0]"
    house.insert("actors/engine/confidence.py", said, ENTROPY)
    house.insert("actors/engine/confidence.py", "from dataclasses import dataclass", "import math")
    said = house.tests("tests/actors/engine/test_exactness.py", "every_step_of_jit and ENTROPY")
    assert "4 passed" in said, "one for each schedule"


def test_a_command(house: House) -> None:
    house.add("jobs/hello.py", HELLO)
    house.insert("jobs/cli.py", "COMMANDS = {", '    "hello": ("jobs.hello:main", "say hello"),')
    assert house.run("-m", "jobs.cli", "hello", "there") == "hello there\n"
    assert "hello" in house.run("-m", "jobs.cli", "help")


def test_every_file_that_the_page_names_is_there() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    paths = set(re.findall(r"`((?:conf|pipeline|actors|jobs|tests)/[\w/.]*)`", page))
    assert len(paths) > 30
    assert not [path for path in sorted(paths) if not (ROOT / path).exists()]
