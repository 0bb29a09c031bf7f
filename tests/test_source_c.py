"""Flat gradient code in C99: every gate, compiled by the system's compiler, computes what the system computes."""

from __future__ import annotations

import ctypes
import math
import re
import shutil
import subprocess
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.core.errors import ArgumentError
from chainrule.core.primitive import TABLE
from chainrule.view.source import Listing, listed
from chainrule.view.targets import c
from listings import UNPRINTED, Drawn, close, expected_of, lenet, listing_of, neuron, perceptron, samples, sigmoid_neuron
from test_models import every_model, made, total

CC = shutil.which("cc")
FLAGS = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]
needs_cc = pytest.mark.skipif(CC is None, reason="there is no C compiler here: apt install gcc")


def compiled(folder: Path, text: str, *flags: str) -> ctypes.CDLL:
    (folder / "code.c").write_text(text)
    library = folder / "code.so"
    done = subprocess.run(
        [str(CC), *FLAGS, *flags, "-shared", "-fPIC", "-o", library, folder / "code.c", "-lm"], check=False, capture_output=True, text=True
    )
    assert not done.returncode, done.stderr[:5000]
    return ctypes.CDLL(str(library))


def run_c(function: Any, listing: Listing, values: Sequence[Any]) -> list[Any]:
    """The outputs of the compiled function, with the caller's memory around them untouched."""
    arrays = [np.ascontiguousarray(value, x.dtype).reshape(x.shape) for value, x in zip(values, listing.graph.inputs, strict=True)]
    outs = [np.full(x.size + 2, 7).astype(x.dtype) for x in listing.graph.outputs]
    given = [array.ctypes.data_as(ctypes.c_void_p) if array.shape else np.ctypeslib.as_ctypes_type(array.dtype)(array[()]) for array in arrays]
    function.restype = None
    function(*given, *(ctypes.c_void_p(out.ctypes.data + out.itemsize) for out in outs))
    for out in outs:
        assert out[0] == out[-1] == np.full((), 7).astype(out.dtype), "written beyond its end"
    return [out[1:-1].reshape(x.shape) for out, x in zip(outs, listing.graph.outputs, strict=True)]


PRINTED = [gate for gate in sorted(TABLE) if gate not in UNPRINTED]


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[Drawn]]:
    return {gate: [*samples(gate), *samples(gate, "float32")[:2]] for gate in PRINTED}


@pytest.fixture(scope="module")
def library(drawn: dict[str, list[Drawn]], tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """All samples of all gates, in one translation unit."""
    text = "\n".join(c.write(sample.listing) for sample in chain(*drawn.values()))
    return compiled(tmp_path_factory.mktemp("gates"), text)


@needs_cc
@pytest.mark.parametrize("gate", PRINTED)
def test_a_gate_and_its_gradient_compute_in_c_what_they_compute_here(gate: str, drawn: dict[str, list[Drawn]], library: ctypes.CDLL) -> None:
    for sample in drawn[gate]:
        with sample.case:
            function = getattr(library, sample.listing.graph.name)
            close(run_c(function, sample.listing, sample.values), expected_of(sample.listing, sample.values))


@pytest.mark.parametrize("gate", sorted(UNPRINTED))
def test_a_gate_that_has_no_loops_is_refused_by_name(gate: str) -> None:
    sample = samples(gate)[0]
    # The gradient of the adjugate is made of singular values.
    named = "svd" if gate == "adjugate" else gate
    with pytest.raises(ArgumentError, match=rf"'c' cannot print the gate {named}\(") as caught:
        c.write(sample.listing)
    assert caught.value.mend


def test_complex_numbers_are_refused_by_name() -> None:
    with pytest.raises(ArgumentError, match=r"cannot print the gate multiply.* it has no complex128"):
        c.write(listing_of(cr.trace(lambda x: x * x, np.array([1j, 2.0]))))


def newton(x: Any, target: Any) -> Any:
    """A square root, with as many steps as it takes, and its gradient."""

    def unfinished(state: Any) -> Any:
        return cr.abs(state[0] * state[0] - target) > 1e-3

    return cr.while_loop(unfinished, lambda state: ((state[0] + target / state[0]) / 2.0, state[1] + state[0]), (x, x))[1]


def either(x: Any, y: Any) -> Any:
    """A branch in a branch, with results with and without axes."""
    inner = lambda x, y: cr.cond(cr.sum(y) > 0.0, lambda x: (cr.sin(x), x[0]), lambda x: (x * x, x[1]), x)
    rows, number = cr.cond(cr.sum(x) > 1.0, inner, lambda x, y: (x * y, y[0]), x, y)
    return cr.sum(rows) * number


def two_paths(x: Any) -> Any:
    """States that take each other's place, back through time."""
    (a, b), rows = cr.scan(lambda carry, row: ((carry[1] * row, carry[0]), carry[0] + row), (x[0], x[1]), x)
    return cr.sum(a * rows[2]) + cr.sum(b)


@needs_cc
@pytest.mark.parametrize(
    ("f", "calls"),
    [
        (newton, [(5.0, 2.0), (1.5, 2.25), (0.1, 9.0)]),
        (either, [(np.array(x), np.array(y)) for x in ([2.0, 1.0], [-2.0, 1.0]) for y in ([1.0, 2.0], [-1.0, 0.5])]),
        (two_paths, [(np.arange(1.0, 7.0).reshape(3, 2),)]),
    ],
)
def test_control_flow_and_its_gradient_take_the_path_that_the_values_choose(f: Any, calls: list[Any], tmp_path: Path) -> None:
    calls = [tuple(np.asarray(x, np.float64) for x in values) for values in calls]
    listing = listed(f, *calls[0])
    function = getattr(compiled(tmp_path, c.write(listing)), f.__name__)
    for values in calls:
        close(run_c(function, listing, values), expected_of(listing, values))


@needs_cc
@pytest.mark.parametrize("f", [neuron, sigmoid_neuron])
def test_the_lectures_neuron_in_c_has_the_lectures_numbers(f: Any, tmp_path: Path) -> None:
    values = (2.0, -1.0, -3.0, -2.0, -3.0)
    listing = listed(f, *values)
    out = run_c(getattr(compiled(tmp_path, c.write(listing)), f.__name__), listing, values)
    np.testing.assert_allclose(out, [0.731059, -0.196612, 0.393224, -0.393224, -0.589836, 0.196612], rtol=1e-5)


def test_c_reads_as_the_function_was_written() -> None:
    text = c.write(listed(sigmoid_neuron, 2.0, -1.0, -3.0, -2.0, -3.0))
    code = [line.strip().split("  /*")[0] for line in text.splitlines()]
    forward, backward = code.index("/* Forward. */"), code.index("/* Backward. */")
    assert code[forward + 1 : forward + 6] == [
        "const float s0 = w0 * x0;",
        "const float s1 = w1 * x1;",
        "const float s2 = s0 + s1;",
        "const float s3 = s2 + w2;",
        "L[0] = 1.0f / (1.0f + expf(-s3));",
    ]
    assert code[backward + 1] == "const float grad_L = 1.0f;"
    assert code[-3:-1] == ["grad_w0[0] = grad_s0 * x0;", "grad_x0[0] = grad_s0 * w0;"]
    assert "#include <math.h>" in code
    assert "malloc" not in text


@needs_cc
@pytest.mark.parametrize("network", [perceptron, lenet])
def test_a_network_in_c_has_the_systems_loss_and_gradients(network: Any, tmp_path: Path) -> None:
    loss, data = network()
    loss.__name__ = "loss"
    graph = cr.trace(loss, *data)
    listing = listed(graph)
    values = [*data, *(np.asarray(one) for one in graph.read())]
    out = run_c(compiled(tmp_path, c.write(listing), "-O1").loss, listing, values)
    value = loss(*data)
    gradients = cr.autograd.grad(value, [source.tensor for source in graph.captured])
    assert len(out) == 1 + len(gradients)
    close(out, [np.asarray(value), *map(np.asarray, gradients)])


def test_values_of_lenet_lie_where_others_lay_that_nobody_reads_any_more() -> None:
    loss, data = lenet()
    text = c.write(listed(cr.trace(loss, *data)))
    (kept,) = re.findall(r"Static memory: (\d+) bytes", text)
    shapes = re.findall(r"\*const \w+ = memory_\w+ \+ \d+;  /\* (\w+)\((.*)\) \*/", text)
    own = sum(np.dtype(dtype).itemsize * math.prod(map(int, shape.split(", "))) for dtype, shape in shapes)
    assert len(shapes) > 30
    assert int(kept) < 0.55 * own


@needs_cc
@every_model
def test_every_network_in_c_computes_what_it_computes_here(name: str, tmp_path: Path) -> None:
    model, inputs = made(name)
    model.astype("float64")
    inputs = [x.astype("float64") if x.dtype.kind == "f" else x for x in inputs]

    def loss(*inputs: Any) -> Any:
        return total(model(*inputs))

    graph = cr.trace(loss, *inputs)
    listing = listed(graph)
    values = [np.asarray(x) for x in (*inputs, *graph.read())]
    out = run_c(compiled(tmp_path, c.write(listing)).loss, listing, values)
    for one, other in zip(out, expected_of(listing, values), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-12)


@needs_cc
def test_no_access_is_out_of_bounds_and_nothing_is_undefined(drawn: dict[str, list[Drawn]], tmp_path: Path) -> None:
    """Run as a program, since the address sanitizer wants to be loaded first."""
    looping = [gate for gate in PRINTED if TABLE[gate].scalar is None or gate in ("add", "remainder", "where")]
    chosen = [sample for gate in looping for sample in drawn[gate][:2]]
    parts = [c.write(sample.listing) for sample in chosen]
    calls = [line for sample in chosen for line in call_in_c(sample)]
    program = "\n".join([*parts, "int main(void)", "{", *calls, "return 0;", "}", ""])
    (tmp_path / "code.c").write_text(program)
    command = [str(CC), "-std=c99", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-o", tmp_path / "code", tmp_path / "code.c", "-lm"]
    built = subprocess.run(command, check=False, capture_output=True, text=True)
    if built.returncode and "cannot find" in built.stderr:
        pytest.skip("the C compiler has no sanitizers here: apt install libasan8 libubsan1")
    assert not built.returncode, built.stderr[:5000]
    ran = subprocess.run([tmp_path / "code"], check=False, capture_output=True, text=True)
    assert not ran.returncode, ran.stderr[:3000]


def call_in_c(sample: Drawn) -> list[str]:
    """A call with arrays of their exact size."""
    syntax, lines, given = c.C(), ["{"], []
    for i, (x, value) in enumerate(zip(sample.listing.graph.inputs, sample.values, strict=True)):
        words = [syntax.number(number, x.dtype) for number in np.asarray(value, x.dtype).reshape(-1).tolist()] or ["0"]
        lines.append(f"static const {c.TYPES[x.dtype.name]} in{i}[{len(words)}] = {{{', '.join(words)}}};")
        given.append(f"in{i}" if x.shape else f"in{i}[0]")
    for i, x in enumerate(sample.listing.graph.outputs):
        lines.append(f"static {c.TYPES[x.dtype.name]} out{i}[{max(x.size, 1)}];")
        given.append(f"out{i}")
    return [*lines, f"{sample.listing.graph.name}({', '.join(given)});", "}"]


@needs_cc
def test_names_that_c_keeps_for_itself_results_that_are_inputs_and_arguments_that_are_not_read(tmp_path: Path) -> None:
    def double(int: Any, y0: Any, unread: Any) -> Any:
        return int * y0, y0, int * y0

    listing = listed(double, np.ones(3), np.arange(3.0), np.float32(1))
    text = c.write(listing)
    assert "void double_(" in text
    assert "const double *int_, const double *y0_, float unread" in " ".join(text.split())
    values = [np.ones(3), np.arange(3.0), np.float32(1), *(np.full(x.shape, 2.0) for x in listing.graph.inputs[3:])]
    close(run_c(compiled(tmp_path, text).double_, listing, values), expected_of(listing, values))
