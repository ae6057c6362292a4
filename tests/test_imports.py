"""Imports go one way (conf <- pipeline <- actors <- jobs), and configuration and data plane never touch torch."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "conf": {"conf"},
    "pipeline": {"conf", "pipeline"},
    "actors": {"conf", "pipeline", "actors"},
    "jobs": {"conf", "pipeline", "actors", "jobs"},
}
HEAVY = {"torch", "transformers", "tokenizers", "safetensors"}


def imported_packages(path: Path) -> set[str]:
    """Top-level packages a file imports anywhere, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_go_one_way(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        ours = imported_packages(path) & (ALLOWED.keys() | {"tests"})
        assert ours <= ALLOWED[package], f"{path.relative_to(ROOT)} imports {ours - ALLOWED[package]}"


@pytest.mark.parametrize("package", ["conf", "pipeline"])
def test_no_torch_below_the_actors(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        assert not imported_packages(path) & HEAVY, f"{path.relative_to(ROOT)} imports a model library"


def imports_at_run_time(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """All imports below a node, those inside functions too, but not what is under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield from imports_at_run_time(child)


def modules_imported(path: Path, modules: dict[str, Path]) -> set[str]:
    """The modules of ours that a file names in an import; `from a import b` is a.b where that is a module."""
    found: set[str] = set()
    for node in imports_at_run_time(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        else:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in modules else str(node.module) for name in names}
    return found & modules.keys()


def test_no_modules_import_each_other_in_a_circle() -> None:
    paths = [path.relative_to(ROOT) for package in ALLOWED for path in (ROOT / package).rglob("*.py")]
    modules = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): ROOT / path for path in paths}
    graph = {name: modules_imported(path, modules) - {name} for name, path in modules.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_importing_the_run_loads_neither_torch_nor_ray() -> None:
    code = (
        "import sys, pipeline.run, jobs.cli, jobs.caption;"
        "print(sorted(sys.modules.keys() & {'torch', 'ray', 'transformers', 'matplotlib'}))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_an_actor_reads_chunks_and_no_sources() -> None:
    code = (
        "import sys, actors.captioner;"
        "print([name for name in sys.modules if name.startswith('pipeline.source.readers')])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
