"""Errors that say what went wrong, where in the caller's code, and how to mend it.

Every error of the library descends from `ChainruleError` and from the built-in exception that a
caller would expect, so ``except ValueError`` keeps working. Nothing here computes anything.
"""

from __future__ import annotations

import linecache
import sys

# Not pathlib, which would be the slowest import of the library.
_PACKAGE = __file__.rpartition("core")[0]


def user_line() -> str:
    """``file:number: code`` of the innermost frame outside the library, or '' if there is none."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(_PACKAGE) and not name.startswith("<"):
            code = linecache.getline(name, frame.f_lineno).strip()
            return f"{name}:{frame.f_lineno}" + (f": {code}" if code else "")
        frame = frame.f_back
    return ""


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


class FunctionError(ChainruleError, RuntimeError):
    """A custom gate's forward or backward that breaks its contract."""


class GradientCheckError(ChainruleError, AssertionError):
    """A derivative rule that disagrees with finite differences."""


class LayerError(ChainruleError, ValueError):
    """An input that a layer cannot take, or a state that does not fit it."""


class DataError(ChainruleError, ValueError):
    """A file that is missing, truncated, corrupt or of another format."""


class MissingExtraError(ChainruleError, ImportError):
    """An optional library that the feature needs is not installed."""
