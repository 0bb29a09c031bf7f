"""Names: what each namespace shows, and that a function's result is a name of its own."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn
from chainrule.core.primitive import functions

MODULES = {"autograd", "data", "models", "errors", "linalg", "nn", "optim", "random", "training"}
NAMESPACES = {"cr": cr, "cr.linalg": cr.linalg, "cr.random": cr.random, "cr.autograd": cr.autograd}


@pytest.mark.parametrize("namespace", NAMESPACES.values(), ids=NAMESPACES)
def test_namespaces_show_public_names_only(namespace: types.ModuleType) -> None:
    shown = [name for name in dir(namespace) if not name.startswith("__")]
    assert [name for name in shown if name.startswith("_")] == []
    assert set(shown) == {name for name in namespace.__all__ if not name.startswith("__")}
    found = {name: getattr(namespace, name) for name in shown}
    assert {name for name, thing in found.items() if isinstance(thing, types.ModuleType)} == (MODULES if namespace is cr else set())
    foreign = [n for n, thing in found.items() if callable(thing) and not str(thing.__module__).startswith(("chainrule", "numpy.dtypes"))]
    assert foreign == []
    starred: dict[str, Any] = {}
    exec(f"from {namespace.__name__} import *", starred)
    assert starred.keys() - {"__builtins__"} == set(namespace.__all__)


def test_functions_of_the_extension_alone_stand_in_it_alone() -> None:
    # cr.trace writes a function down as a graph.
    assert set(cr.linalg.__all__) & set(cr.__all__) == {"matmul", "matrix_transpose", "tensordot", "trace", "vecdot"}


UFUNCS = [name for name, ufunc in vars(np).items() if isinstance(ufunc, np.ufunc) and functions.ufunc(ufunc.__name__)]


OTHERWISE = {"absolute", "arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctan2", "arctanh", "conjugate", "invert", "left_shift", "power"}


def test_ufuncs_under_other_names_than_ours_are_found() -> None:
    assert {getattr(np, name).__name__ for name in UFUNCS} > OTHERWISE


@pytest.mark.parametrize("name", UFUNCS)
def test_functions_by_the_names_of_ufuncs_are_what_numpy_means_by_them(name: str) -> None:
    ufunc = getattr(np, name)
    kinds = {types.split("->")[0] for types in ufunc.types}
    x: Any = np.eye(2) + 1 if ufunc.signature else np.array([0.3, 0.6]) if "d" * ufunc.nin in kinds else np.array([3, 5])
    if name.startswith("logical"):
        x = x > 0.5
    if name in ("acosh", "arccosh"):
        x = x + 1
    ours, expected = functions.ufunc(ufunc.__name__)(*(x,) * ufunc.nin), ufunc(*(x,) * ufunc.nin)
    assert ours.dtype == expected.dtype
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_a_ufunc_that_is_no_function_of_ours_is_none() -> None:
    assert functions.ufunc("heaviside_of_nothing") is None


SAME: dict[str, Callable[[Any], Any]] = {
    "astype": lambda x: cr.astype(x, x.dtype),
    "broadcast_arrays": lambda x: cr.broadcast_arrays(x, x)[0],
    "broadcast_to": lambda x: cr.broadcast_to(x, x.shape),
    "clip": cr.clip,
    "concat": lambda x: cr.concat([x]),
    "cond": lambda x: cr.cond(True, lambda y: y, lambda y: y, x),
    "cond of what it closes over": lambda x: cr.cond(True, lambda: x, lambda: x),
    "conj": cr.conj,
    "diff": lambda x: cr.diff(x, n=0),
    "einsum": lambda x: cr.einsum("ij->ij", x),
    "expand_dims": lambda x: cr.squeeze(cr.expand_dims(x, axis=0), axis=0),
    "flip": lambda x: cr.flip(x, axis=()),
    "getitem": lambda x: x[...],
    "matrix_power": lambda x: cr.linalg.matrix_power(x, 1),
    "max": lambda x: cr.max(x, axis=()),
    "mean": lambda x: cr.mean(x, axis=()),
    "meshgrid": lambda x: cr.reshape(cr.meshgrid(cr.reshape(x, (-1,)))[0], x.shape),
    "moveaxis": lambda x: cr.moveaxis(x, 0, 0),
    "pad": lambda x: cr.pad(x, 0),
    "permute_dims": lambda x: cr.permute_dims(x, (0, 1)),
    "positive": cr.positive,
    "prod": lambda x: cr.prod(x, axis=()),
    "real": cr.real,
    "repeat": lambda x: cr.repeat(x, 1, axis=0),
    "reshape": lambda x: cr.reshape(x, x.shape),
    "roll": lambda x: cr.roll(x, 0, axis=0),
    "scan": lambda x: cr.scan(lambda carry, _: (carry, None), x, None, length=2)[0],
    "scan of no steps": lambda x: cr.scan(lambda carry, _: (carry, None), x, None, length=0)[0],
    "squeeze": lambda x: cr.squeeze(x, axis=()),
    "stop_gradient": cr.stop_gradient,
    "sum": lambda x: cr.sum(x, axis=()),
    "tile": lambda x: cr.tile(x, (1, 1)),
    "while_loop": lambda x: cr.while_loop(lambda y: cr.any(y > 9), lambda y: y, x),
    "while_loop whose body adds in place": lambda x: cr.while_loop(lambda y: cr.any(y < 9), lambda y: y.__iadd__(1), x),
    "dropout": lambda x: cr.random.dropout(x, 0.5, training=False),
    "Dropout": lambda x: nn.Dropout(0.5).eval()(x),
    "Sequential": lambda x: nn.Sequential([])(x),
    "linear": nn.get("linear"),
    "Activation": lambda x: nn.Activation("linear")(x),
}


@pytest.mark.parametrize("name", SAME)
def test_what_leaves_its_input_as_it_is_gives_it_another_name(name: str) -> None:
    x = cr.ones((2, 2)) * 2
    before = x.tolist()
    y = SAME[name](x)
    assert y is not x
    y += 1
    assert x.tolist() == before
