"""The command ``explore``: a function of a user's file, at arguments that are given in words, as a page."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chainrule.core.errors import ArgumentError, DataError
from chainrule.view.explorer.page import explore as write_page

HOW = "write FILE.py:FUNCTION, such as neuron.py:neuron"


def explore(given: argparse.Namespace) -> None:
    """Write the page of a function."""
    function = _function(given.function)
    arguments = _arguments(function, _values(given.arguments))
    path = write_page(function, *arguments, path=given.output)
    sys.stdout.write(f"{path}\n")


def _function(given: str) -> Callable[..., Any]:
    file, colon, name = given.rpartition(":")
    if not colon or not file or not name:
        raise ArgumentError(f"{given!r} names no function", mend=HOW)
    path = Path(file)
    if not path.is_file():
        raise DataError(f"there is no file {file}", mend=HOW)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise DataError(f"{file} is no Python file", mend=HOW)
    module = importlib.util.module_from_spec(spec)
    # As if it were run: what stands beside it can be imported.
    sys.path.insert(0, str(path.resolve().parent))
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    found = getattr(module, name, None)
    if not callable(found):
        known = [key for key, value in vars(module).items() if inspect.isfunction(value) and value.__module__ == path.stem]
        raise ArgumentError(f"{file} has no function {name}", mend=f"choose among {', '.join(known) or 'none'}")
    return found


def _values(given: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign or not name.isidentifier():
            raise ArgumentError(f"{text!r} is no argument", mend="write NAME=VALUE, such as w=2.0")
        values[name] = _value(value)
    return values


def _value(text: str) -> Any:
    if text.endswith(".npy"):
        if not Path(text).is_file():
            raise DataError(f"there is no file {text}", mend="write one with numpy.save")
        return np.load(text, allow_pickle=False)
    try:
        value = ast.literal_eval(text)
        value = np.asarray(value, dtype=np.float32) if isinstance(value, (list, tuple)) else value
    except (ValueError, SyntaxError):
        raise ArgumentError(f"{text!r} is no number, list or .npy file", mend="write w=2.0, w=[1.0,2.0] or w=file.npy") from None
    if not isinstance(value, (int, float, np.ndarray)):
        raise ArgumentError(f"{text!r} is no number, list or .npy file", mend="write w=2.0, w=[1.0,2.0] or w=file.npy")
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _arguments(function: Callable[..., Any], values: Mapping[str, Any]) -> list[Any]:
    """All arguments by position: those given, then defaults."""
    parameters = list(inspect.signature(function).parameters.values())
    names = [p.name for p in parameters]
    unknown = [name for name in values if name not in names]
    if unknown:
        raise ArgumentError(f"the function has no argument {unknown[0]}", mend=f"its arguments are {', '.join(names) or 'none'}")
    missing = [p.name for p in parameters if p.name not in values and p.default is p.empty]
    if missing:
        raise ArgumentError(f"no value is given for {', '.join(missing)}", mend=f"add {' '.join(f'{name}=1.0' for name in missing)}")
    return [values.get(p.name, p.default) for p in parameters]
