"""Errors say what went wrong, where in the caller's code, and how to mend it."""

from __future__ import annotations

import ast
import subprocess
import sys
import sysconfig
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.core import errors
from chainrule.core.errors import ArgumentError, ChainruleError, DtypeError, LinAlgError

M = np.eye(2)
SOURCE = Path(errors.__file__).parent.parent

MISTAKES: dict[str, tuple[Callable[[], Any], type[ChainruleError]]] = {
    "from_dlpack of a number": (lambda: cr.from_dlpack(3), DtypeError),
    "more memory than there is": (lambda: cr.zeros((10**7, 10**7)), ArgumentError),
    "more elements than can be counted": (lambda: cr.zeros((10**10, 10**10)), ArgumentError),
    "full": (lambda: cr.full((10**7, 10**7), 2.0), ArgumentError),
    "matrix_power": (lambda: cr.linalg.matrix_power(M, 1.5), DtypeError),  # type: ignore[arg-type]
    "Dense": (lambda: cr.nn.Dense("a"), ArgumentError),  # type: ignore[arg-type]
    "Dense of half a unit": (lambda: cr.nn.Dense(1.5), ArgumentError),  # type: ignore[arg-type]
    "Conv2D": (lambda: cr.nn.Conv2D("a", 3), ArgumentError),  # type: ignore[arg-type]
    "randint with numbers for a shape and a shape for a number": (lambda: cr.random.randint(0, 2**40, (2,)), ArgumentError),  # type: ignore[arg-type]
    "normal": (lambda: cr.random.normal((2,), 0.0, -1.0), ArgumentError),
    "normal of an array": (lambda: cr.random.normal((2,), 0.0, [1.0, -1.0]), ArgumentError),
    "exponential": (lambda: cr.random.exponential((2,), -1.0), ArgumentError),
    "gumbel": (lambda: cr.random.gumbel((2,), 0.0, -1.0), ArgumentError),
    "a shape of half a size": (lambda: cr.random.uniform(1.5), DtypeError),  # type: ignore[arg-type]
    "bernoulli": (lambda: cr.random.bernoulli(2.0, (2,)), ArgumentError),
    "bernoulli of an array": (lambda: cr.random.bernoulli([0.5, -0.1]), ArgumentError),
    "bernoulli of NaN": (lambda: cr.random.bernoulli(float("nan")), ArgumentError),
    "eigh": (lambda: cr.linalg.eigh([[np.nan, 1.0], [1.0, 1.0]]), LinAlgError),
    "eigvalsh": (lambda: cr.linalg.eigvalsh([[np.inf, 1.0], [1.0, 1.0]]), LinAlgError),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_a_named_error_with_a_mend(mistake: str) -> None:
    make, kind = MISTAKES[mistake]
    with pytest.raises(kind) as caught:
        make()
    assert caught.value.mend
    assert __file__ in caught.value.where


def caller(path: str, code: str = "def run(f): return f()") -> Callable[[Callable[[], Any]], Any]:
    """A function that calls another one, as if it stood in this file."""
    scope: dict[str, Any] = {}
    exec(compile(code, path, "exec"), scope)
    return scope["run"]


def fail() -> str:
    # Not from this file's own frame: only what the callers' files say counts.
    return errors.user_line()


def lines_above(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this file pass for a part of the library."""
    monkeypatch.setattr(errors, "_PACKAGE", __file__)


PACKAGES = sysconfig.get_paths()["purelib"]
STANDARD = sysconfig.get_paths()["stdlib"]


@pytest.mark.parametrize(
    "between", [f"{STANDARD}/contextlib.py", f"{STANDARD}/concurrent/futures/thread.py", f"{PACKAGES}/other/tool.py", "<frozen x>"]
)
@pytest.mark.parametrize("own", ["/home/someone/project/model.py", f"{sys.prefix}/../train.py", f"{sys.prefix}/src/train.py"])
def test_the_line_is_in_the_callers_own_code(own: str, between: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines_above(monkeypatch)
    assert caller(own)(lambda: caller(between)(fail)).startswith(own + ":1")


def test_a_failure_of_linear_algebra_names_the_callers_line() -> None:
    with pytest.raises(LinAlgError) as caught:
        cr.linalg.inv(np.zeros((2, 2)))
    assert caught.value.where.startswith(__file__)
    assert "cr.linalg.inv" in caught.value.where


def test_without_code_of_ones_own_the_package_that_called_is_named(tmp_path: Path) -> None:
    package = tmp_path / "tool.py"
    package.write_text("import chainrule as cr\ntry:\n    cr.linalg.inv([[0.0]])\nexcept ValueError as error:\n    print(error.where)\n")
    roots = (str(tmp_path),), errors._roots()[1]
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from chainrule.core import errors; errors._roots = lambda: {roots}; import tool"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{package}:3: cr.linalg.inv")


def test_where_packages_lie_is_looked_up_only_for_an_error() -> None:
    code = "import sys, chainrule; from chainrule.core import errors; print(errors._roots.cache_info().currsize)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "0\n"


ROOMS = [path for room in ("ops", "nn", "optim", "data", "training") for path in sorted((SOURCE / room).glob("*.py"))]


@pytest.mark.parametrize("path", [SOURCE / "core" / "aval.py", *ROOMS], ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_error_that_is_raised_has_a_mend(path: Path) -> None:
    ours = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, ChainruleError)}
    without = [
        f"{path.name}:{node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ours
        if not any(keyword.arg == "mend" and ast.unparse(keyword.value) not in ("''", '""') for keyword in node.keywords)
    ]
    assert without == []


IN_RANGE: dict[str, tuple[Callable[[], Any], str]] = {
    "getitem": (lambda: cr.zeros(3)[5], "getitem: index 5"),
    "take": (lambda: cr.take(cr.zeros(3), [5], axis=0), ""),
    "sum": (lambda: cr.sum(cr.zeros(3), axis=5), "sum: axis 5"),
    "expand_dims": (lambda: cr.expand_dims(cr.zeros(3), axis=5), "expand_dims: axis 5"),
    "no axes": (lambda: cr.sum(cr.tensor(1.0), axis=0), "sum: axis 0"),
}


@pytest.mark.parametrize("case", IN_RANGE)
def test_positions_out_of_range_name_the_operation(case: str) -> None:
    make, says = IN_RANGE[case]
    with pytest.raises(errors.AxisError) as caught:
        make()
    assert caught.value.what.startswith(says)
    assert caught.value.mend


def test_warnings_that_are_made_errors_pass_unchanged() -> None:
    for f in (lambda: cr.log(cr.tensor(0.0)), lambda: cr.divide(cr.tensor([1.0]), 0.0)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(RuntimeWarning, match="divide by zero"):
                f()
