"""What is written is true: every example runs and prints what it says, and everything public is documented."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
import types
from pathlib import Path
from typing import Any

import pytest

import chainrule as cr

ROOT = Path(__file__).parent.parent
MODULES = ["chainrule", *(info.name for info in pkgutil.walk_packages(cr.__path__, "chainrule."))]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def examples() -> dict[str, doctest.DocTest]:
    """Every doctest of the library, by the place where it stands, once."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    found: dict[int, doctest.DocTest] = {}
    for name in MODULES:
        module = importlib.import_module(name)
        tests = finder.find(module)
        made = [x for x in vars(module).values() if isinstance(x, types.FunctionType) and x.__globals__ is not vars(module)]
        tests += [test for x in made if x.__module__.startswith("chainrule") for test in finder.find(x, f"{x.__module__}.{x.__name__}", globs={})]
        for test in tests:
            found.setdefault(hash(test.docstring), test)
    return {test.name: test for test in found.values() if test.examples}


EXAMPLES = examples()


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_example(name: str) -> None:
    report: list[str] = []
    doctest.DocTestRunner().run(EXAMPLES[name], out=report.append, clear_globs=False)
    assert not report, "".join(report)


def public(module: types.ModuleType) -> dict[str, Any]:
    """What a user reaches as an attribute of ``module``."""
    if hasattr(module, "__all__"):
        return {name: getattr(module, name) for name in module.__all__}
    own = (module.__name__,) if module is not cr else ("chainrule",)
    return {name: thing for name, thing in vars(module).items() if not name.startswith("_") and str(getattr(thing, "__module__", "")).startswith(own)}


NAMESPACES = (
    *(cr, cr.linalg, cr.random, cr.autograd, cr.optim, cr.optim.schedules, cr.data, cr.data.transforms, cr.models, cr.training),
    *(cr.nn, cr.nn.losses, cr.nn.activations, cr.nn.initializers, cr.nn.regularizers),
)
CALLABLES = {
    f"{module.__name__}.{name}": thing
    for module in NAMESPACES
    for name, thing in public(module).items()
    if (inspect.isfunction(thing) or inspect.isclass(thing)) and thing.__module__.startswith("chainrule")
}

AS_ELSEWHERE = {
    "chainrule.grad": "value_and_grad",
    "chainrule.gradgradcheck": "gradcheck",
    "chainrule.autodiff.autograd.backward": "Tensor.backward",
}
"""Those whose parameters are documented with another's, which the docstring names."""

WITHOUT_EXAMPLE = {name for name, thing in CALLABLES.items() if inspect.isclass(thing) and issubclass(thing, BaseException)}
"""Errors: the functions that raise them say when."""


def parameters(thing: Any) -> list[str]:
    try:
        found = inspect.signature(thing).parameters.values()
    except ValueError:
        return []
    return [p.name for p in found if not (inspect.isclass(thing) and p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD))]


@pytest.mark.parametrize("name", sorted(CALLABLES))
def test_what_is_public_is_documented(name: str) -> None:
    thing = CALLABLES[name]
    text = (inspect.getdoc(thing) if "__doc__" in vars(thing) or inspect.isfunction(thing) else thing.__doc__) or ""
    assert text, "no docstring"
    assert re.match(r"[^\n]+(\n[^\n]+)?\.(\n\n|$)", text), "the docstring begins with one sentence"
    inside = [inspect.getdoc(member) or "" for member in vars(thing).values() if callable(member)] if inspect.isclass(thing) else []
    assert any(">>> " in doc for doc in (text, *inside)) or name in WITHOUT_EXAMPLE, "no example"
    needed = parameters(thing)
    if name in AS_ELSEWHERE:
        assert f"`{AS_ELSEWHERE[name]}`" in text
    elif needed:
        # Of records, which have a parameter for every attribute, the attributes are documented.
        record = inspect.isclass(thing) and (hasattr(thing, "_fields") or hasattr(thing, "__dataclass_fields__"))
        heading = "Attributes" if record and "Parameters" not in text.splitlines() else "Parameters"
        assert heading in text.splitlines(), f"no section on {needed}"
        assert not (missing := [p for p in needed if not re.search(rf"\b{p}\b", text)]), f"parameters that the docstring does not name: {missing}"


def test_every_module_says_what_it_is_for() -> None:
    modules = [importlib.import_module(name) for name in MODULES]
    assert [module.__name__ for module in modules if not module.__doc__ and not hasattr(module, "__path__")] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Python on a page runs from top to bottom; an expression's comment is what it shows, and a text block below is what is printed."""
    monkeypatch.chdir(tmp_path)
    text = page.read_text()
    scope: dict[str, Any] = {}
    for found in re.finditer(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", text, re.DOTALL):
        block, printed = found.groups()
        lines = block.splitlines()
        # So that a line that is told is the page's own.
        first = text.count("\n", 0, found.start(1))
        for statement in ast.parse(block).body:
            source = "\n".join(lines[statement.lineno - 1 : statement.end_lineno])
            _, comment, said = lines[(statement.end_lineno or 1) - 1].partition("  # ")
            ast.increment_lineno(statement, first)
            if not isinstance(statement, ast.Expr):
                exec(compile(ast.Module([statement], []), str(page), "exec"), scope)
                continue
            shown = eval(compile(ast.Expression(statement.value), str(page), "eval"), scope)
            assert not comment or said == repr(shown).replace("\n", ""), source
        got = capsys.readouterr().out
        assert printed is None or doctest.OutputChecker().check_output(printed, f"{got.rstrip()}\n", doctest.ELLIPSIS), got


def test_pages_link_to_files_that_exist() -> None:
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
