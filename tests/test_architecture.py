"""The house rules that no linter knows: when outside libraries are imported, how long a file may be."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "chainrule"
FILES = sorted(SOURCE.rglob("*.py"))
IDS = [str(path.relative_to(SOURCE)) for path in FILES]
every_file = pytest.mark.parametrize("path", FILES, ids=IDS)

OPTIONAL = {"rich", "safetensors", "sklearn", "scipy", "tensorboardX", "onnx", "torch", "jax", "llvmlite", "matplotlib", "pygraphviz", "mpi4py"}


def imports(path: Path) -> list[tuple[str, bool]]:
    """Outermost package of every import, and whether it stands at the top of the file."""
    parsed = ast.parse(path.read_text())
    top = {id(node) for node in parsed.body}
    found: list[tuple[str, bool]] = []
    for node in ast.walk(parsed):
        if isinstance(node, ast.Import):
            found += [(alias.name.partition(".")[0], id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(((node.module or "").partition(".")[0], id(node) in top))
    return found


@every_file
def test_optional_libraries_are_imported_when_they_are_used(path: Path) -> None:
    """Where they may be imported is import-linter's business."""
    assert not [library for library, at_top in imports(path) if at_top and library in OPTIONAL]


@every_file
def test_file_is_short_enough_to_be_one_idea(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 500


@every_file
def test_file_has_no_leftovers_and_every_exception_to_a_lint_rule_has_its_reason(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"\b(TODO|FIXME|XXX)\b|breakpoint\(", text)
    assert not re.search(r"# noqa(?!: [A-Z]+\d+, \w+)|# (type|pyright): ignore(?!\[[\w-]+\] - \w+)", text)


@every_file
def test_no_file_imports_the_whole_package(path: Path) -> None:
    parsed = ast.parse(path.read_text())
    whole = [node.lineno for node in ast.walk(parsed) if isinstance(node, ast.Import) and any(alias.name == "chainrule" for alias in node.names)]
    assert not whole
