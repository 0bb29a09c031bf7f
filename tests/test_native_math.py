"""Native code's arithmetic: the elementary functions to 2 units in the last place, and every elementwise gate as eager has it."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest

from chainrule.compiler.native import elements, engine, scalars
from chainrule.compiler.native.ir import I64, PTR, Function, Module
from chainrule.compiler.native.scalars import Builder, NotLowered, converts_halves
from chainrule.core.aval import Aval
from chainrule.core.errors import ChainruleError
from chainrule.core.primitive import TABLE, Primitive, functions
from gates import Gate, calls_of

llvmlite = pytest.importorskip("llvmlite", reason="native code: pip install 'chainrule[cpu]'")

FLOATS = (np.float32, np.float64)
INTS = tuple(np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64))
LANES = (1, 8, 16)
BLOCK = 16
"""Arrays are made a multiple of this long."""

Write = Callable[[Function, Sequence[Any]], Any]
"""Given the function and a register for each input, the register of the result."""


def written(module: Module, name: str, write: Write, dtypes: Sequence[Any], out: Any, lanes: int) -> None:
    """A function of arrays, count and result."""
    f = Function(module, name, [*((f"x{i}", PTR) for i in range(len(dtypes))), ("y", PTR), ("count", I64)])
    *xs, y, count = f.parameters
    with f.loop(0, count, lanes) as loop:
        made = write(f, [elements.load(f, np.dtype(dtype), x, loop.index, 1, lanes) for x, dtype in zip(xs, dtypes, strict=True)])
        elements.store(f, np.dtype(out), y, loop.index, made)
    f.close()


def called(code: engine.Code, name: str, xs: Sequence[Any], out: Any) -> Any:
    result = np.empty(xs[0].shape, out)
    assert all(x.flags.c_contiguous for x in xs)
    assert len(result) % BLOCK == 0
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * (len(xs) + 1), ctypes.c_int64)(code.address(name))
    function(*(x.ctypes.data for x in xs), result.ctypes.data, len(result))
    return result


def run(write: Write, xs: Sequence[Any], out: Any = None, lanes: int = BLOCK) -> Any:
    """What is written, for arrays."""
    out = xs[0].dtype if out is None else out
    module = Module()
    written(module, "f", write, [x.dtype for x in xs], out, lanes)
    return called(engine.load(module.text()), "f", xs, out)


def mathematics(name: str, dtype: Any) -> Write:
    """A method of the builder for values of a dtype."""

    def write(f: Function, registers: Sequence[Any]) -> Any:
        k = Builder(f, np.dtype(dtype))
        return k.register(getattr(k, name)(*(k.value(x, np.dtype(dtype)) for x in registers)), np.dtype(dtype))

    return write


# The elementary functions.


def spread(dtype: Any, count: int) -> Any:
    """Bit patterns from all over, and many of everyday numbers."""
    rng = np.random.default_rng(0)
    if dtype == np.float32:
        patterns = np.linspace(0, 2**32 - 1, count).astype(np.uint32).view(np.float32)
    else:
        patterns = rng.integers(0, 2**64, count, dtype=np.uint64).view(np.float64)
    return np.concatenate([patterns, *(rng.normal(size=count // 2).astype(dtype) * size for size in (0.5, 5, 300))])


def distance(y: Any, exact: Any) -> Any:
    """In units in the last place of ``y``'s dtype; infinite where one is a number and the other is not."""
    finfo = np.finfo(y.dtype)
    with np.errstate(all="ignore"):
        nearest = exact.astype(y.dtype)
        unit = np.spacing(np.maximum(np.abs(nearest), finfo.smallest_normal))
        apart = np.abs(y.astype(exact.dtype) - exact) / unit
    plain = np.isfinite(y) & np.isfinite(nearest)
    same = (y == nearest) | (np.isnan(y) & np.isnan(nearest))
    return np.where(plain, apart, np.where(same, 0.0, np.inf))


def _sigmoid(x: Any) -> Any:
    power = np.exp(-np.abs(x))
    return np.where(x > 0, 1 / (1 + power), power / (1 + power))


EXACT: Mapping[str, Callable[..., Any]] = {
    "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1, "log": np.log, "log2": np.log2, "log10": np.log10, "log1p": np.log1p,
    "tanh": np.tanh, "sigmoid": _sigmoid, "sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin, "acos": np.arccos,
    "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh,
    "erf": np.vectorize(math.erf, [float]), "erfc": np.vectorize(math.erfc, [float]), "sqrt": np.sqrt,
    "pow": np.power, "hypot": np.hypot, "atan2": np.arctan2, "fmod": np.fmod,
}  # fmt: skip
BINARY = ("pow", "hypot", "atan2", "fmod")
POINTS = 1 << 17
DENSE = 1 << 20
"""Of float32 for the functions of one number that networks use."""
USUAL = ("exp", "expm1", "log", "log1p", "tanh", "sigmoid", "erf", "sin", "cos")


@cache
def longer() -> bool:
    return np.finfo(np.longdouble).nmant > 60


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", EXACT)
def test_functions_are_within_two_units_in_the_last_place(name: str, dtype: Any) -> None:
    if dtype == np.float64 and not longer():
        pytest.skip("needs a long double of more bits than a double to compare with: run on x86 Linux")
    rng = np.random.default_rng(1)
    x = spread(dtype, DENSE if name in USUAL and dtype == np.float32 else POINTS)
    xs = [x, rng.permutation(x)] if name in BINARY else [x]
    y = run(mathematics(name, dtype), xs)
    with np.errstate(all="ignore"):
        # The C library's error functions know no long double.
        wide = np.float64 if dtype == np.float32 or name.startswith("erf") else np.longdouble
        exact = EXACT[name](*(v.astype(wide) for v in xs))
    apart = distance(y, exact)
    worst = int(apart.argmax())
    assert apart[worst] <= 2, f"{[v[worst] for v in xs]}: {y[worst]!r} instead of {exact[worst]!r}"


SPECIALS = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 3.0, -3.0, math.inf, -math.inf, math.nan, 1e-3, 1e30, -1e30]


def specials(dtype: Any) -> Any:
    """With the ends of the format, where what is not normal begins."""
    finfo = np.finfo(dtype)
    ends = [finfo.max, finfo.smallest_normal, finfo.smallest_subnormal, finfo.smallest_normal / 2, finfo.eps, 1 + finfo.eps, 1e5, 88.8]
    return np.array([*SPECIALS, *ends, *(-end for end in ends)], dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", EXACT)
def test_infinities_nan_and_signed_zeros_are_right(name: str, dtype: Any) -> None:
    x = specials(dtype)
    xs = [np.repeat(x, len(x)), np.tile(x, len(x))] if name in BINARY else [np.resize(x, 64)]
    y = run(mathematics(name, dtype), xs)
    with np.errstate(all="ignore"):
        expected = EXACT[name](*(v.astype(np.float64) for v in xs)).astype(dtype)
    np.testing.assert_allclose(y, expected, rtol=8 * np.finfo(dtype).eps, atol=2 * np.finfo(dtype).smallest_subnormal)
    zeros = (expected == 0) & (y == 0)
    np.testing.assert_array_equal(np.signbit(y)[zeros], np.signbit(expected)[zeros])


@pytest.mark.parametrize("dtype", FLOATS)
def test_large_angles_are_right(dtype: Any) -> None:
    x = np.ldexp(np.random.default_rng(0).uniform(1, 2, 4096), np.arange(4096) % (126 if dtype == np.float32 else 1022)).astype(dtype)
    for name in ("sin", "cos", "tan"):
        assert distance(run(mathematics(name, dtype), [x]), EXACT[name](x.astype(np.longdouble))).max() <= 2


@pytest.mark.parametrize("dtype", FLOATS)
def test_lanes_do_not_depend_on_their_neighbours(dtype: Any) -> None:
    """A large angle among small ones takes another way, alone."""
    x = np.random.default_rng(0).normal(size=1 << 12).astype(dtype) * 10
    x[::7] = 1e9
    for name in ("sin", "cos", "tan"):
        alone, among = (run(mathematics(name, dtype), [x], lanes=lanes) for lanes in (1, 16))
        np.testing.assert_array_equal(alone, among)


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_next_number_is_the_next_one(dtype: Any) -> None:
    x = specials(dtype)
    a, b = np.repeat(x, len(x)), np.tile(x, len(x))
    y = run(mathematics("nextafter", dtype), [a, b])
    with np.errstate(all="ignore"):
        expected = np.nextafter(a, b)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(np.signbit(y)[y == 0], np.signbit(expected)[y == 0])


# Every gate.

ELEMENTWISE = [name for name, gate in sorted(TABLE.items()) if gate.scalar is not None and not gate.outputs]
MIXED = [0, 1, -1, 2, 3, -3, 7, 8, 31, 63, 100, -100]


def variants(values: Sequence[Any]) -> list[list[Any]]:
    """The inputs of a call in the other dtypes that may stand for theirs, whole ones with extreme values mixed in."""
    made = [list(values)]
    if any(v.dtype.kind == "f" for v in values):
        made += [[v.astype(dtype) if v.dtype.kind == "f" else v for v in values] for dtype in (np.float32, np.float16)]
    if all(v.dtype.kind in "iu" for v in values):
        made += [list(np.meshgrid(*(whole(v, dtype) for v in values))) for dtype in INTS]
    return [[v.reshape(-1) for v in np.broadcast_arrays(*own)] for own in made]


def whole(x: Any, dtype: Any) -> Any:
    info = np.iinfo(dtype)
    ends = np.array([info.min, info.max, info.max // 2], dtype)
    return np.unique(np.concatenate([np.ravel(x).astype(dtype)[:4], np.array(MIXED).astype(dtype), ends]))


def calls(gate: Primitive) -> list[tuple[list[Any], Mapping[str, Any]]]:
    """What the samples come to: each kind of call once."""
    found: dict[Any, tuple[list[Any], Mapping[str, Any]]] = {}
    for case in Gate(gate, getattr(functions, gate.name)).cases():
        for call in calls_of(case, case.arrays):
            values = [np.real(v) for v in call.values]
            if call.primitive is gate and all(v.dtype.kind in "fiub" and v.size for v in values):
                for own in variants(values):
                    found.setdefault((*(v.dtype for v in own), repr(call.params)), (own, call.params))
    return list(found.values())


def result_dtype(gate: Primitive, xs: Sequence[Any], params: Mapping[str, Any]) -> Any | None:
    """Of a call; None if the gate refuses it, or is not for real numbers."""
    try:
        dtype = gate.aval(*(Aval(x.shape, x.dtype) for x in xs), **params).dtype
    except ChainruleError:
        return None
    return dtype if dtype.kind in "fiub" else None


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_gates_compute_what_they_compute_eagerly(name: str) -> None:
    gate, module, checks = TABLE[name], Module(), list[tuple[str, list[Any], Any]]()
    for xs, params in calls(gate):
        out = result_dtype(gate, xs, params)
        if out is None:
            continue
        blocks = [np.resize(x, -(-len(x) // BLOCK) * BLOCK) for x in xs]
        try:
            with np.errstate(all="ignore"):
                expected = gate.evaluate(*blocks, **params)
        except ValueError:
            # A negative power of a whole number.
            continue
        for lanes in LANES:

            def write(f: Function, registers: Sequence[Any], xs: Any = xs, params: Any = params, out: Any = out) -> Any:
                return scalars.lower(f, gate, registers, [x.dtype for x in xs], params, out)

            word = f"f{len(checks)}"
            try:
                written(module, word, write, [x.dtype for x in xs], out, lanes)
            except NotLowered:
                assert refused(name, [out, *(x.dtype for x in xs)])
                continue
            checks.append((word, blocks, expected))
    assert checks or name == "imag", "which is for complex numbers alone"
    code = engine.load(module.text())
    for word, xs, expected in checks:
        y = called(code, word, xs, expected.dtype)
        error = f"{name} of {[x.dtype for x in xs]}"
        if y.dtype.kind == "f":
            eps = float(np.finfo(y.dtype).eps)
            np.testing.assert_allclose(y, expected, rtol=8 * eps, atol=4 * eps, err_msg=error)
        else:
            np.testing.assert_array_equal(y, expected, err_msg=error)


def refused(name: str, dtypes: Sequence[Any]) -> bool:
    """Whether native code leaves that to NumPy."""
    if np.dtype(np.float16) in dtypes:
        return name == "nextafter" or not converts_halves()
    return name == "pow" and dtypes[0].kind in "iu"


DTYPES = [np.dtype(bool), *INTS, *map(np.dtype, ("float16", "float32", "float64"))]


def hard(dtype: Any) -> Any:
    """Values that are hard to convert, as far as NumPy's result is defined."""
    if dtype.kind == "f":
        near = [0.0, -0.0, 0.4, 0.5, 0.6, 1.5, 2.5, 126.9, 2047.0, 65504.0, 65520.0, 6e-8, 2.98023223876953125e-8, 1 + 2**-11, 1 + 2**-11 + 2**-40]
        with np.errstate(over="ignore"):
            return np.array([*near, math.inf, math.nan, 1e20]).astype(dtype)
    if dtype.kind == "b":
        return np.array([False, True])
    info = np.iinfo(dtype)
    return np.array([0, 1, 2, 100, info.max, info.max - 1, info.min, info.max // 2 + 1, info.max // 3], dtype)


@pytest.mark.parametrize("source", DTYPES, ids=str)
def test_conversions_are_those_of_numpy(source: Any) -> None:
    gate = TABLE["astype"]
    for out in DTYPES:
        values = hard(source)
        if source.kind == "f" and out.kind in "iu":
            # Elsewhere C leaves the result open.
            values = values[np.abs(values.astype(np.float64)) < 2.0 ** (8 * out.itemsize - (out.kind == "i"))]
        with np.errstate(all="ignore"):
            expected = values.astype(out)
        for lanes in LANES:
            if np.dtype(np.float16) in (source, out) and not converts_halves():
                continue

            def write(f: Function, registers: Sequence[Any], out: Any = out) -> Any:
                return scalars.lower(f, gate, registers, [source], {"dtype": out}, out)

            y = run(write, [np.resize(values, 64)], out, lanes)
            np.testing.assert_array_equal(y, np.resize(expected, 64), err_msg=f"{source} to {out}")


@pytest.mark.parametrize("name", ["less", "less_equal", "greater", "greater_equal", "equal", "not_equal"])
def test_whole_numbers_are_compared_as_such_whatever_their_signs(name: str) -> None:
    a, b = np.meshgrid(np.array([-1, 0, 1, -(2**63), 2**63 - 1]), np.array([0, 1, 2**63, 2**64 - 1, 2**63 - 1], np.uint64))
    xs = [np.resize(a, 32), np.resize(b, 32)]

    def write(f: Function, registers: Sequence[Any]) -> Any:
        return scalars.lower(f, TABLE[name], registers, [x.dtype for x in xs], {}, np.dtype(bool))

    np.testing.assert_array_equal(run(write, xs, np.dtype(bool)), getattr(np, name)(*xs))


def test_complex_numbers_and_gates_that_are_not_elementwise_are_refused() -> None:
    f = Function(Module(), "f", [])
    with pytest.raises(NotLowered, match="complex128"):
        scalars.lower(f, TABLE["exp"], [], [np.dtype(complex)], {}, np.dtype(complex))
    with pytest.raises(NotLowered, match="not elementwise"):
        scalars.lower(f, TABLE["sum"], [], [], {}, np.dtype(float))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_extremes_beside_a_number_keep_nan(name: str, dtype: Any) -> None:
    x = np.resize(specials(dtype), 64)
    for number in (0.0, 1.5, -math.inf, math.nan):
        for swapped in (False, True):

            def write(f: Function, registers: Sequence[Any], number: float = number, swapped: bool = swapped) -> Any:
                k = Builder(f, np.dtype(dtype))
                pair = [k.value(registers[0], np.dtype(dtype)), number]
                return k.register(getattr(k, name)(*pair[:: -1 if swapped else 1]), np.dtype(dtype))

            np.testing.assert_array_equal(run(write, [x]), getattr(np, name)(x, dtype(number)))


@pytest.mark.parametrize("exponent", [-16, -5, -2, -1.5, -1, -0.5, 0, 0.25, 0.5, 1, 1.5, 2, 3, 4, 5, 7, 15, 2.5, 40])
@pytest.mark.parametrize("dtype", FLOATS)
def test_known_powers_are_within_two_units_in_the_last_place(dtype: Any, exponent: float) -> None:
    x = spread(dtype, 1 << 12)

    def write(f: Function, registers: Sequence[Any]) -> Any:
        return scalars.lower(f, TABLE["pow_constant"], registers, [np.dtype(dtype)], {"exponent": exponent}, np.dtype(dtype))

    x = np.abs(x) if isinstance(exponent, float) else x
    with np.errstate(all="ignore"):
        exact = np.power(x.astype(np.longdouble), exponent)
    assert distance(run(write, [x]), exact).max() <= 2


def test_half_precision_is_rounded_once() -> None:
    if not converts_halves():
        pytest.skip("no instructions for half precision: run on a processor that has them")
    x = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    for name in ("exp", "tanh", "sqrt"):

        def write(f: Function, registers: Sequence[Any], name: str = name) -> Any:
            return scalars.lower(f, TABLE[name], registers, [x.dtype], {}, x.dtype)

        with np.errstate(all="ignore"):
            assert distance(run(write, [x]), EXACT[name](x.astype(np.float64))).max() < 0.501
