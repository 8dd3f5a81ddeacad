"""Data flows one way: nothing imports upwards, and no imports go in a circle."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import tinyllm

PACKAGE = Path(tinyllm.__file__).parent
ROOMS = ("data", "teachers", "student", "weighting", "evaluation", "reporting", "cli")
"""From the bottom to the top; the modules at the root lie below all of them."""
MODULES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(("tinyllm", *(parts[:-1] if parts[-1] == "__init__" else parts)))


def level(module: str) -> int:
    room = module.split(".")[1] if module.count(".") else ""
    return ROOMS.index(room) + 1 if room in ROOMS else 0


def imports(path: Path, *, top_level: bool = False) -> set[str]:
    """Modules of the package that a file imports, anywhere or (`top_level`) when it is loaded."""
    tree = ast.parse(path.read_text())
    known = {module_name(one) for one in MODULES}
    found = set()
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else node.module for name in names}
    return {name for name in found if name.startswith("tinyllm")}


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_nothing_imports_upwards(path: Path) -> None:
    own = module_name(path)
    upwards = {name for name in imports(path) if level(name) > level(own)}
    assert not upwards, f"{own} lies below {upwards}"


def test_no_imports_go_in_a_circle() -> None:
    graph = {module_name(path): imports(path, top_level=True) - {module_name(path)} for path in MODULES}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"a circle: {' -> '.join((*path[path.index(module) :], module))}"
        if module in done:
            return
        for other in sorted(graph.get(module, ())):
            visit(other, (*path, module))
        done.add(module)

    for module in sorted(graph):
        visit(module, ())
    assert len(done) == len(MODULES)


def test_the_walk_sees_an_import_upwards(tmp_path: Path) -> None:
    """The walk itself: an import inside a function counts, and levels are told apart."""
    file = tmp_path / "x.py"
    file.write_text("def f():\n    from tinyllm.cli.main import main\n")
    assert imports(file) == {"tinyllm.cli.main"} and imports(file, top_level=True) == set()
    assert (
        level("tinyllm.cli.main")
        > level("tinyllm.reporting.frame")
        > level("tinyllm.data.tokens")
        > level("tinyllm.runs")
    )
