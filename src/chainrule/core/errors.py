"""Errors that say what went wrong, where in the caller's code, and how to mend it.

Every error of the library descends from `ChainruleError` and from the built-in exception that a
caller would expect, so ``except ValueError`` keeps working. Nothing here computes anything.
"""

from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")

# Not pathlib, which would be the slowest import of the library.
_PACKAGE = __file__.rpartition("core")[0]
_GENERATED = ("<frozen", "<__array_function__", "<string>")


def user_line() -> str:
    """``file:number: code`` of the innermost frame of the caller's own code, or '' if there is none.

    Python's standard library and installed packages are passed over, unless nothing but packages called.
    """
    frame = sys._getframe(1)
    packaged = ""
    while frame is not None:
        name = frame.f_code.co_filename
        kind = _kind(name)
        if kind == "":
            return _line(name, frame.f_lineno)
        if kind == "package":
            packaged = packaged or _line(name, frame.f_lineno)
        frame = frame.f_back
    return packaged


@cache
def is_users(filename: str) -> bool:
    """Whether a file is the caller's own: not the library's, nor the standard one's or an installed package's."""
    return _kind(filename) == ""


def _line(name: str, number: int) -> str:
    code = linecache.getline(name, number).strip()
    return f"{name}:{number}" + (f": {code}" if code else "")


def _kind(name: str) -> str:
    """Whether a file is of this "library", a "package", the "standard" library or, '', none of these."""
    if name.startswith((_PACKAGE, *_GENERATED)):
        return "library"
    packages, standard = _roots()
    return "package" if name.startswith(packages) else "standard" if name.startswith(standard) else ""


@cache
def _roots() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The folders of installed packages and of the standard library; found when the first error is made."""
    import site  # noqa: PLC0415, neither is loaded unless something went wrong
    import sysconfig  # noqa: PLC0415, slow to import, and seldom needed

    paths = sysconfig.get_paths()
    packages = {paths["purelib"], paths["platlib"], *site.getsitepackages(), site.getusersitepackages()}
    standard = {paths["stdlib"], paths["platstdlib"], os.__file__.rpartition(os.sep)[0]}

    def folders(names: set[str]) -> tuple[str, ...]:
        return tuple(root + os.sep for name in names if name for root in {name, os.path.realpath(name)})

    return folders(packages), folders(standard)


class ChainruleError(Exception):
    """Base of the library's errors.

    Parameters
    ----------
    what : str
        The operation, its operands and what is wrong with them.
    mend : str, optional
        What the caller can do about it.

    Attributes
    ----------
    where : str
        The line of the caller's code.
    layer : str
        The path of the layer inside which it happened, or ''.
    """

    def __init__(self, what: str, *, mend: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.mend = mend
        self.where = user_line()
        self.layer = ""

    def __str__(self) -> str:
        details = (("  in layer: ", self.layer), ("  at ", self.where), ("  mend: ", self.mend))
        return "\n".join([self.what, *(label + text for label, text in details if text)])


class ShapeError(ChainruleError, ValueError):
    """Shapes that do not fit the operation or each other."""


class DtypeError(ChainruleError, TypeError):
    """A dtype or kind of value that the operation does not take."""


class ArgumentError(ChainruleError, ValueError):
    """An argument outside what the operation accepts."""


class AxisError(ChainruleError, IndexError, ValueError):
    """An axis or index out of range."""


class LinAlgError(ChainruleError, ValueError):
    """A matrix for which the decomposition or solution does not exist."""


class GradientError(ChainruleError, RuntimeError):
    """A gradient that was asked for cannot be computed."""


class TraceError(ChainruleError, RuntimeError):
    """A function that cannot be written down as a graph, or a traced value used where there is none."""


class AnomalyError(ChainruleError, ArithmeticError):
    """A gate made NaN or infinity out of numbers that were finite, forward or backward."""


class FunctionError(ChainruleError, RuntimeError):
    """A custom gate's forward or backward that breaks its contract."""


class GradientCheckError(ChainruleError, AssertionError):
    """A derivative rule that disagrees with finite differences."""


class LayerError(ChainruleError, ValueError):
    """An input that a layer cannot take, or a state that does not fit it."""


class DataError(ChainruleError, ValueError):
    """A file that is missing, truncated, corrupt or of another format."""


class CompileWarning(UserWarning):
    """A function is compiled again and again."""


class MissingExtraError(ChainruleError, ImportError):
    """An optional library that the feature needs is not installed."""


def look_up(kind: str, name: Any, choices: Mapping[str, T], error: type[ChainruleError] = ArgumentError, otherwise: str = "") -> T:
    """What a name stands for; the error for an unknown one suggests the nearest, and else, or besides, what ``otherwise`` says."""
    if isinstance(name, str) and name in choices:
        return choices[name]
    from difflib import get_close_matches  # noqa: PLC0415, only needed when something went wrong

    # Whatever the case of its letters.
    known = {choice.lower(): choice for choice in choices}
    near = get_close_matches(str(name).lower(), known, 1)
    hint = f"did you mean {known[near[0]]!r}?" if near else ""
    if otherwise:
        raise error(f"no {kind} {name!r}", mend=f"{hint} If not, {otherwise}" if near else otherwise)
    raise error(f"no {kind} {name!r}", mend=hint or f"choose one of {', '.join(choices)}")
