"""Flat gradient code in JavaScript: what node computes of it is what the system computes, local derivatives included."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn
from chainrule.core.errors import ArgumentError, GradientError
from chainrule.core.primitive import TABLE
from chainrule.graph.ir import Operation
from chainrule.tape import bind
from chainrule.view.source import listed
from chainrule.view.targets import javascript
from listings import UNPRINTED, Drawn, close, expected_of, lenet, neuron, perceptron, samples, sigmoid_neuron

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="there is no node here: apt install nodejs")

UNSAID = {"nextafter"}
"""Gates that JavaScript has no word for."""
PRINTED = [gate for gate in sorted(TABLE) if gate not in UNPRINTED | UNSAID]

DRIVER = """
const read = (x) => (/^\\d+n$/.test(x) ? BigInt(x.slice(0, -1)) : Number(x));
const cases = JSON.parse(require("fs").readFileSync(process.argv[2]), (key, x) => (typeof x === "string" && key !== "name" ? read(x) : x));
const plain = (key, x) => (ArrayBuffer.isView(x) ? Array.from(x) : typeof x === "number" && !Number.isFinite(x) ? String(x) : x);
console.log(JSON.stringify(cases.map(([i, inputs, put]) => functions[i](inputs, put)), plain));
"""


def worded(x: Any) -> Any:
    """Numbers as JSON can hold them."""
    if isinstance(x, list):
        return [worded(one) for one in x]
    if isinstance(x, int) and x >= 2**53:
        return f"{x}n"
    return x if isinstance(x, (bool, int)) or math.isfinite(x) else {"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}[str(x)]


def run_node(folder: Path, texts: Sequence[str], cases: Sequence[tuple[int, dict[str, Any], dict[str, Any]]]) -> list[dict[str, Any]]:
    """Call functions, each given by its position, and take what they return."""
    parts = ",\n".join(f"(() => {{ {text}\nreturn recompute; }})()" for text in texts)
    (folder / "code.js").write_text(f'"use strict";\nconst functions = [{parts}];\n{DRIVER}')
    (folder / "cases.json").write_text(json.dumps(cases))
    done = subprocess.run([str(NODE), folder / "code.js", folder / "cases.json"], check=False, capture_output=True, text=True)
    assert not done.returncode, done.stderr[-3000:]
    return json.loads(done.stdout)


def numbers(x: Any) -> Any:
    return np.array([float(one) for one in x]) if isinstance(x, list) else np.float64(x)


def given(sample: Drawn) -> dict[str, Any]:
    listing = sample.listing
    inputs = ((x, np.asarray(value, x.dtype)) for x, value in zip(listing.graph.inputs, sample.values, strict=True))
    return {listing.names[x]: worded(value.reshape(-1).tolist() if x.shape else value.item()) for x, value in inputs}


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[Drawn]]:
    return {gate: samples(gate) for gate in PRINTED}


@pytest.fixture(scope="module")
def returned(drawn: dict[str, list[Drawn]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the code of every sample returns, from one run of node."""
    every = [sample for some in drawn.values() for sample in some]
    texts = [javascript.write(sample.listing) for sample in every]
    out = run_node(tmp_path_factory.mktemp("gates"), texts, [(i, given(sample), {}) for i, sample in enumerate(every)])
    return {sample.listing.graph.name: one for sample, one in zip(every, out, strict=True)}


@needs_node
@pytest.mark.parametrize("gate", PRINTED)
def test_a_gate_and_its_gradient_compute_in_javascript_what_they_compute_here(
    gate: str, drawn: dict[str, list[Drawn]], returned: dict[str, dict[str, Any]]
) -> None:
    for sample in drawn[gate]:
        with sample.case:
            listing, out = sample.listing, returned[sample.listing.graph.name]
            expected = expected_of(listing, sample.values)
            names = [*(("value", listing.names.get(x)) for x in listing.values), *(("grad", listing.names[x]) for x, _ in listing.gradients)]
            got = [(out[kind][name], value) for (kind, name), value in zip(names, expected, strict=False) if name is not None]
            assert got
            close([numbers(x).reshape(value.shape) for x, value in got], [value for _, value in got])
            for name, shape in out["shape"].items():
                assert np.size(out["value"][name]) == math.prod(shape)


@needs_node
@pytest.mark.parametrize("gate", [gate for gate in PRINTED if TABLE[gate].scalar is not None])
def test_local_derivatives_are_those_of_the_gate_element_by_element(
    gate: str, drawn: dict[str, list[Drawn]], returned: dict[str, dict[str, Any]]
) -> None:
    for sample in drawn[gate]:
        graph, node = sample.listing.graph, sample.listing.forward[0] if sample.listing.forward else None
        if node is None or node.primitive.name != gate:
            continue
        env = dict(zip(graph.inputs, sample.values, strict=True)) | dict(graph.constants)
        full = [cr.broadcast_to(env[x], node.output.shape) for x in node.inputs]
        found = returned[graph.name]["local"][sample.listing.names[node.output]]
        slots = [i for i, x in enumerate(node.inputs) if x not in graph.constants or x.shape]
        with sample.case:
            for slot, local in zip(slots, found, strict=True):
                expected = slope(node, full, slot)
                if expected is None or local is None:
                    assert local is None or not np.any(numbers(local))
                    assert expected is None or not np.any(expected)
                    continue
                close([np.broadcast_to(numbers(local).reshape(np.shape(expected) if np.ndim(local) else ()), np.shape(expected))], [expected])


def slope(node: Operation, full: Sequence[Any], slot: int) -> Any:
    """The system's own derivative of a gate by an operand, element by element; None if there is none."""
    if full[slot].dtype.kind != "f":
        return None
    try:
        return np.asarray(cr.grad(lambda x: cr.sum(bind(node.primitive, [*full[:slot], x, *full[slot + 1 :]], node.params)))(full[slot]))
    except GradientError:
        return None


@pytest.mark.parametrize("gate", sorted(UNSAID | {"svdvals", "qr"}))
def test_a_gate_that_javascript_has_no_words_for_is_refused_by_name(gate: str) -> None:
    with pytest.raises(ArgumentError, match=rf"'javascript' cannot print the gate {gate}\("):
        javascript.write(samples(gate)[0].listing)


@needs_node
def test_random_bits_are_all_right_and_numbers_without_sign_wrap(tmp_path: Path) -> None:
    def bits(key: Any, x: Any) -> Any:
        words = cr.random.random_bits(cr.random.fold_in(key, 7), (5,))
        wide = cr.random.random_bits(key, (3,), dtype="uint64")
        # Numbers of 64 bits come in halves, so that none is rounded.
        wide = cr.concat([wide >> 32, wide * wide - wide & cr.asarray(2**32 - 1, dtype="uint64")])
        return words * words + words, wide, -words, ~words, cr.sum(x)

    key, x = np.array([2**63 + 5, 2**64 - 1], np.uint64), np.ones(2)
    listing = listed(bits, key, x)
    (out,) = run_node(tmp_path, [javascript.write(listing)], [(0, {"key": worded(key.tolist()), "x": [1, 1]}, {})])
    for value, expected in zip(listing.values, listing.graph.run(key, x), strict=False):
        assert out["value"][listing.names[value]] == np.asarray(expected).tolist()


@needs_node
@pytest.mark.parametrize("f", [neuron, sigmoid_neuron])
def test_gradients_are_central_differences_when_a_page_replaces_values(f: Any, tmp_path: Path) -> None:
    inputs: dict[str, Any] = {"w0": 2.0, "x0": -1.0, "w1": -3.0, "x1": -2.0, "w2": -3.0}
    h = 1e-5
    listing = listed(f, *inputs.values())
    text = javascript.write(listing)
    (first,) = run_node(tmp_path, [text], [(0, inputs, {})])
    output = listing.names[listing.values[0]]
    assert first["value"][output] == pytest.approx(0.7310585786)
    assert [first["grad"][name] for name in inputs] == pytest.approx([-0.1966119, 0.3932239, -0.3932239, -0.5898358, 0.1966119], rel=1e-5)
    assert set(first["grad"]) == set(first["value"]), "every value has a gradient"

    def moved(name: str, value: float) -> tuple[int, dict[str, Any], dict[str, Any]]:
        return (0, {**inputs, name: value}, {}) if name in inputs else (0, inputs, {name: value})

    steps = [moved(name, value + step) for name, value in first["value"].items() for step in (h, -h)]
    ends = [one["value"][output] for one in run_node(tmp_path, [text], steps)]
    slopes = [(up - down) / (2 * h) for up, down in zip(ends[::2], ends[1::2], strict=True)]
    assert slopes == pytest.approx([first["grad"][name] for name in first["value"]], rel=1e-7, abs=1e-9)


@needs_node
@pytest.mark.parametrize("network", [perceptron, lenet])
def test_a_network_in_javascript_has_the_systems_loss_and_gradients(network: Any, tmp_path: Path) -> None:
    loss, data = network()
    graph = cr.trace(loss, *data)
    listing = listed(graph)
    values = [*data, *(np.asarray(one) for one in graph.read())]
    inputs = {listing.names[x]: value.reshape(-1).tolist() for x, value in zip(listing.graph.inputs, values, strict=True)}
    (out,) = run_node(tmp_path, [javascript.write(listing)], [(0, inputs, {})])
    value = loss(*data)
    gradients = cr.autograd.grad(value, [source.tensor for source in graph.captured])
    got = [numbers(out["value"][listing.names[listing.values[0]]]), *(numbers(out["grad"][listing.names[x]]) for x, _ in listing.gradients)]
    assert len(got) == 1 + len(gradients)
    close(got, [np.asarray(value), *(np.asarray(g).reshape(-1) for g in gradients)])


@needs_node
def test_dropout_in_javascript_drops_what_it_drops_here(tmp_path: Path) -> None:
    cr.manual_seed(0)
    model = nn.Sequential([nn.Dense(8, activation="relu"), nn.Dropout(0.5), nn.Dense(2)])
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    model(x)
    graph = cr.trace(lambda x: cr.sum(model(x) ** 2), x)
    listing = listed(graph)
    values = [x, *(np.asarray(one) for one in graph.read())]
    inputs = {listing.names[x]: worded(value.reshape(-1).tolist()) for x, value in zip(listing.graph.inputs, values, strict=True)}
    (out,) = run_node(tmp_path, [javascript.write(listing)], [(0, inputs, {})])
    got = [numbers(out["value"][listing.names[listing.values[0]]]), *(numbers(out["grad"][listing.names[x]]) for x, _ in listing.gradients)]
    assert len(got) == 5
    close(got, [one.reshape(-1) if one.shape else one for one in expected_of(listing, values)][: len(got)])


def test_javascript_reads_as_the_function_was_written() -> None:
    text = javascript.write(listed(sigmoid_neuron, 2.0, -1.0, -3.0, -2.0, -3.0))
    assert "const s2 = put.s2 ?? s0 + s1;  // float32()" in text
    assert "const L = put.L ?? 1.0 / (1.0 + Math.exp(-s3));" in text
    assert "local: { s0: [x0, w0], s1: [x1, w1], s2: [1, 1], s3: [1, 1], L: [" in text
    assert "import" not in text


def test_names_that_javascript_keeps_for_itself_are_still_those_of_the_caller() -> None:
    def f(new: Any, size: Any) -> Any:
        var = new * size
        return cr.exp(var)

    text = javascript.write(listed(f, 1.0, 2.0))
    assert "const new_ = inputs.new;" in text
    assert "const var_ = put.var ?? new_ * size;" in text
    assert "var: var_" in text
    assert "new: new_" in text
