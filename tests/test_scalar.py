"""Every elementwise gate's lowering onto the scalar builder computes what the gate computes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from chainrule.core.aval import Aval
from chainrule.core.errors import DtypeError
from chainrule.core.primitive import TABLE, Primitive, functions
from chainrule.core.scalar import Builder
from gates import Gate, calls_of

SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 3.0, 1e-300, 5e-324, 30.0, -30.0, 700.0, -700.0, 1e300, -1e300, np.inf, -np.inf, np.nan]
NAMES = {"select": "where", "round": "rint", "pow": "power", "atan2": "arctan2"}
NAMES |= {name: f"arc{name[1:]}" for name in ("asin", "acos", "atan", "asinh", "acosh", "atanh")}
LOWERED = sorted(name for name, primitive in TABLE.items() if primitive.scalar is not None)


def of_numpy(*operations: str) -> dict[str, Any]:
    """NumPy's functions for these operations, as methods."""
    found = {name: getattr(np, NAMES.get(name, name), None) for name in operations}
    return {name: staticmethod(function) for name, function in found.items() if function is not None}


REQUIRED = Builder.__abstractmethods__
ALL = [name for name, _ in inspect.getmembers(Builder, inspect.isfunction)]
CONVERT = {"convert": lambda self, x, dtype: np.asarray(x).astype(dtype)}
# A target on NumPy's arrays that has the required operations and nothing else; and one that has them all, for integers and complex values too.
Minimal = type("Minimal", (Builder,), of_numpy(*REQUIRED) | CONVERT)
Native = type("Native", (Builder,), of_numpy(*ALL) | CONVERT)


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    """A selection computes both branches: warnings of the one not taken mean nothing."""
    with np.errstate(all="ignore"):
        yield


def lowered(primitive: Primitive) -> Iterator[tuple]:
    """Inputs, parameters and value of every sample that reaches the gate."""
    for case in Gate(primitive, getattr(functions, primitive.name)).cases():
        for call in calls_of(case, case.arrays):
            if call.primitive is primitive:
                yield call.values, call.params, call.value


def test_every_elementwise_gate_is_lowered() -> None:
    elementwise = [name for name, primitive in TABLE.items() if primitive.partials or primitive.aval.__qualname__.startswith("elementwise_aval")]
    assert [name for name in elementwise if TABLE[name].scalar is None] == []


@pytest.mark.parametrize("name", LOWERED)
def test_a_lowering_computes_what_the_gate_computes(name: str) -> None:
    primitive = TABLE[name]
    for values, params, value in lowered(primitive):
        got = primitive.scalar(Native(), *values, **params)
        assert np.shape(got) == np.shape(value)
        np.testing.assert_allclose(got, value, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", LOWERED)
def test_the_required_operations_suffice_for_floating_point(name: str) -> None:
    primitive = TABLE[name]
    for values, params, value in lowered(primitive):
        if all(np.asarray(v).dtype.kind in "fb" for v in values):
            np.testing.assert_allclose(primitive.scalar(Minimal(), *values, **params), value, rtol=1e-12, atol=1e-14)


def on_reals(name: str) -> bool:
    primitive = TABLE[name]
    try:
        primitive.aval(*(Aval((), np.dtype("float64")),) * len(primitive.inputs), **next(lowered(primitive))[1])
    except DtypeError:
        return False
    return name not in ("real", "conj")


@pytest.mark.parametrize("name", [name for name in LOWERED if on_reals(name)])
def test_special_values_survive_a_lowering(name: str) -> None:
    primitive = TABLE[name]
    grid = [axis.ravel() for axis in np.meshgrid(*[SPECIAL] * len(primitive.inputs))]
    _, params, _ = next(lowered(primitive))
    value = primitive.evaluate(*grid, **params)
    np.testing.assert_allclose(primitive.scalar(Minimal(), *grid, **params), value, rtol=1e-11, atol=1e-300)
