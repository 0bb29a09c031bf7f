"""Graphs: what they print, how they compare, what verify finds, and how they are run and differentiated."""

from __future__ import annotations

import copy
import dataclasses
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn, optim
from chainrule.core import tree
from chainrule.core.aval import Aval
from chainrule.core.errors import ArgumentError, GradientError, TraceError
from chainrule.core.primitive import TABLE
from chainrule.core.variable import Variable
from chainrule.graph.ir import Graph, Operation, frozen

GOLDEN = Path(__file__).parent / "golden"


def same_as_golden(name: str, text: str) -> None:
    """Compare with the file; ``GOLDEN=write`` in the environment writes it anew."""
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("GOLDEN") == "write":
        path.write_text(text + "\n")
    assert text + "\n" == path.read_text()


# What graphs print


def neuron(w0: Any, x0: Any, w1: Any, x1: Any, w2: Any) -> Any:
    s0 = w0 * x0
    s1 = w1 * x1
    s2 = s0 + s1
    s3 = s2 + w2
    L = cr.sigmoid(s3)
    return L  # noqa: RET504, for the name


NEURON = (2.0, -1.0, -3.0, -2.0, -3.0)


def two_layers(p: dict[str, list[Any]], x: Any) -> dict[str, Any]:
    hidden = [cr.tanh(x @ w + b) for w, b in p["layers"]]
    out, rest = hidden[-1], hidden[:-1]
    return {"out": out, "rest": rest, "none": None, "count": len(hidden), "shape": out.shape}


class Encoder(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = [nn.Dense(3, "relu"), nn.Dense(3)]
        self.scale = cr.tensor(2.0, requires_grad=True)

    def call(self, x: cr.Tensor) -> cr.Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x * self.scale


def of_the_neuron() -> str:
    graph = cr.trace(neuron, *NEURON)
    return f"{graph}\n\n{graph.grad()}\n\n{graph.grad('w0').grad('x0')}"


def of_nested_containers() -> str:
    p = {"layers": [(np.ones((2, 2)), np.ones(2)), (np.ones((2, 2)), np.zeros(2))]}
    return str(cr.trace(two_layers, p, np.ones(2)))


def of_layers_inside_layers() -> str:
    encoder = Encoder().initialize((1, 3))
    graph = cr.trace(lambda x: cr.sum(encoder(x) ** 2), np.ones((4, 3), np.float32))
    return f"{graph}\n\n{graph.grad()}"


def of_a_training_step() -> str:
    cr.manual_seed(0)
    model = nn.Sequential([nn.Dense(8, "relu"), nn.Dropout(0.5), nn.Dense(3)]).initialize((1, 5))
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step(x: cr.Tensor, labels: cr.Tensor) -> cr.Tensor:
        optimizer.zero_grad()
        scores = model(x)
        loss = cr.mean(cr.softmax_cross_entropy(scores, labels))
        loss.backward()
        optimizer.step()
        return loss

    return str(cr.trace(step, np.ones((4, 5), np.float32), np.zeros(4, np.int64)))


def of_control_flow() -> str:
    def newton(x: cr.Tensor, steps: int) -> cr.Tensor:
        def closer(carry: tuple[cr.Tensor, cr.Tensor]) -> tuple[cr.Tensor, cr.Tensor]:
            i, y = carry
            return i + 1, (y + x / y) / 2

        _, root = cr.while_loop(lambda carry: carry[0] < steps, closer, (0, x))
        return cr.cond(x > 1.0, lambda r: r, lambda r: r * r, root)

    return str(cr.trace(newton, 2.0, 5))


PRINTED: dict[str, Callable[[], str]] = {
    "neuron": of_the_neuron,
    "nested_containers": of_nested_containers,
    "layers_inside_layers": of_layers_inside_layers,
    "training_step": of_a_training_step,
    "control_flow": of_control_flow,
}


@pytest.mark.parametrize("name", PRINTED)
def test_graphs_print_what_they_always_did(name: str) -> None:
    same_as_golden(name, PRINTED[name]())


def test_graphs_print_the_same_in_another_process() -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import test_graph; print(test_graph.of_a_training_step(), end='')"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code, str(Path(__file__).parent)], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == of_a_training_step()


def test_what_is_printed_holds_no_paths_and_no_addresses() -> None:
    class Odd:
        pass

    odd, thing = Odd(), object()
    graph = cr.trace(lambda x: (x, odd, thing, neuron, int), 1.0)
    assert str(graph).splitlines()[-1] == "    return (x, <Odd>, <object>, neuron, int)"
    for made in PRINTED.values():
        assert "0x" not in made()
        assert os.sep + "test" not in made()


def test_lines_are_printed_on_request() -> None:
    graph = cr.trace(neuron, *NEURON)
    first = neuron.__code__.co_firstlineno
    assert [line.rpartition("  ")[2] for line in graph.text(lines=True).splitlines()[1:6]] == [f"test_graph.py:{first + i}" for i in range(1, 6)]


def test_numbers_and_small_constants_are_written_out() -> None:
    table = np.arange(20.0)
    text = str(cr.trace(lambda x: x * np.array([1.5, -2.0]) + (-2.0) ** cr.sum(x) - table[:2] * cr.sum(x * table[3]) + cr.sum(table), np.ones(2)))
    assert "c: float64(2) = [1.5, -2.0]  # constant" in text
    assert "c_2: float64(2) = [0.0, 1.0]  # constant" in text
    assert "c_3: float64(20)  # constant" in text
    assert "= (-2.0) ** " in text
    assert " * 3.0  #" in text


def test_what_an_assignment_replaces_is_named_before() -> None:
    a, b = cr.tensor(1.0), cr.tensor(2.0)

    def swap() -> cr.Tensor:
        old = copy.copy(a)
        a.assign(b)
        b.assign(old)
        return old

    graph = cr.trace(swap)
    assert str(graph).splitlines()[3:] == ["    a_was = a", "    b_was = b", "    a = b_was", "    b = a_was", "    return a_was"]
    assert graph.run().item() == 1
    assert (a.item(), b.item()) == (2, 1)


def test_a_graph_in_a_sentence() -> None:
    assert repr(cr.trace(neuron, *NEURON)) == "<graph of neuron: 5 inputs, 5 nodes, 1 outputs>"


def test_names_are_identifiers_whatever_keys_arguments_have() -> None:
    graph = cr.trace(lambda p: p["layers.0.kernel"] * p[3] + p["layers 0 kernel"], {"layers.0.kernel": 1.0, 3: 2.0, "layers 0 kernel": 3.0})
    names = [x.name for x in graph.inputs]
    assert all(name.isidentifier() for name in names)
    assert len(set(names)) == 3


# What verify finds


def changed(graph: Graph, position: int, **fields: Any) -> Graph:
    """The graph with other fields in one of its nodes."""
    nodes = list(graph.nodes)
    nodes[position] = dataclasses.replace(nodes[position], **fields)
    return graph.with_nodes(nodes, graph.outputs)


def used_before(graph: Graph) -> Graph:
    return graph.with_nodes([graph.nodes[1], graph.nodes[0], *graph.nodes[2:]][::-1], graph.outputs)


def of_nowhere(graph: Graph) -> Graph:
    return changed(graph, 2, inputs=(graph.nodes[2].inputs[0], Variable(Aval((), np.dtype("float32")), "stranger")))


def defined_twice(graph: Graph) -> Graph:
    return changed(graph, 1, outputs=graph.nodes[0].outputs)


def redefined_input(graph: Graph) -> Graph:
    return changed(graph, 4, outputs=(graph.inputs[0],))


def other_shape(graph: Graph) -> Graph:
    return changed(graph, 4, outputs=(Variable(Aval((2,), np.dtype("float32")), "L"),))


def other_dtype(graph: Graph) -> Graph:
    return changed(graph, 0, outputs=(Variable(Aval((), np.dtype("float64")), "s0"),))


def unfit(graph: Graph) -> Graph:
    return changed(graph, 2, primitive=TABLE["matmul"])


def too_many_operands(graph: Graph) -> Graph:
    return changed(graph, 4, inputs=graph.inputs[:2])


def undefined_output(graph: Graph) -> Graph:
    return graph.with_nodes(graph.nodes[:4], graph.outputs)


FAULTS: dict[str, tuple[Callable[[Graph], Graph], str]] = {
    "used before": (used_before, r"s3 is used before it is defined, in\n    L = sigmoid\(s3\)"),
    "of nowhere": (of_nowhere, r"stranger is used before it is defined, in\n    s2 = s0 \+ stranger"),
    "defined twice": (defined_twice, r"s0 is defined twice, in\n    s0 = w1 \* x1"),
    "redefined input": (redefined_input, r"w0 is defined twice, in\n    w0 = sigmoid\(s3\)"),
    "other shape": (other_shape, r"L is float32\(2\), but its gate gives float32\(\), in\n    L = sigmoid"),
    "other dtype": (other_dtype, r"s0 is float64\(\), but its gate gives float32\(\), in\n    s0 = w0 \* x0"),
    "unfit": (unfit, r"matmul.*in\n    s2 = s0 @ s1"),
    "too many operands": (too_many_operands, r"in\n    L = sigmoid\(w0, x0\)"),
    "undefined output": (undefined_output, "the output L is not defined"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_verify_finds_a_planted_fault_and_shows_the_line(fault: str) -> None:
    plant, says = FAULTS[fault]
    graph = cr.trace(neuron, *NEURON)
    assert graph.verify() is graph
    with pytest.raises(TraceError, match=f"(?s)neuron: .*{says}") as caught:
        plant(graph).verify()
    assert caught.value.mend


def test_verify_looks_into_control_flow() -> None:
    graph = cr.trace(lambda x: cr.cond(x > 0, cr.sin, cr.cos, x), 1.0)
    (place,) = [i for i, node in enumerate(graph.nodes) if node.primitive.name == "cond"]
    node = graph.nodes[place]
    name, inner = next((name, value) for name, value in node.params.items() if isinstance(value, Graph))
    bad = inner.with_nodes((), inner.outputs)
    with pytest.raises(TraceError, match="not defined"):
        changed(graph, place, params={**node.params, name: bad}).verify()


def test_an_input_may_be_one_only_once() -> None:
    graph = cr.trace(neuron, *NEURON)
    x = graph.inputs[0]
    with pytest.raises(TraceError, match="an input twice"):
        Graph("f", (x, x), (), (x,), {}, graph.arguments, graph.results, {}).verify()


# Comparing


def test_graphs_that_differ_in_names_alone_are_equal() -> None:
    def f(x: Any, y: Any) -> Any:
        z = x * y
        return z + 2.0

    def g(a: Any, b: Any) -> Any:
        return a * b + 2.0

    first, second = cr.trace(f, 1.0, 2.0), cr.trace(g, 3.0, 4.0)
    assert first == second
    assert hash(first) == hash(second)
    assert len({first, second, cr.trace(f, 5.0, 6.0)}) == 1
    assert first != "graph"


DIFFERENT: dict[str, Callable[[Any, Any], Any]] = {
    "first": lambda x, y: x * y + 2.0,
    "wiring": lambda x, y: y * x + 2.0,
    "order of results": lambda x, y: 2.0 + x * y,
    "gate": lambda x, y: x / y + 2.0,
    "constant": lambda x, y: x * y + 3.0,
    "one more": lambda x, y: -(x * y + 2.0),
    "zero": lambda x, y: x * y + 0.0,
    "negative zero": lambda x, y: x * y + -0.0,
    "nesting": lambda x, y: (x * y + 2.0,),
    "list": lambda x, y: [x * y + 2.0],
    "a number beside it": lambda x, y: [x * y + 2.0, 1],
    "True beside it": lambda x, y: [x * y + 2.0, True],
    "1.0 beside it": lambda x, y: [x * y + 2.0, 1.0],
    "1 beside it, complex": lambda x, y: [x * y + 2.0, 1 + 0j],
    "a text beside it": lambda x, y: [x * y + 2.0, "1"],
    "parameter 1": lambda x, y: cr.sum(x * y, axis=()) + 2.0,
    "parameter True": lambda x, y: cr.sum(x * y, axis=(), keepdims=True) + 2.0,
    "parameter of another dtype": lambda x, y: cr.astype(x * y + 2.0, cr.float64),
}


def test_graphs_that_compute_otherwise_differ() -> None:
    graphs = {name: cr.trace(f, 1.0, 2.0) for name, f in DIFFERENT.items()}
    assert len(set(graphs.values())) == len(graphs)
    for name, graph in graphs.items():
        assert [other for other, made in graphs.items() if made == graph] == [name]
    assert cr.trace(DIFFERENT["first"], 1.0, 2.0) != cr.trace(DIFFERENT["first"], np.float64(1.0), 2.0)
    assert cr.trace(DIFFERENT["first"], 1.0, np.ones(2, np.float32)) != graphs["first"]


def test_graphs_that_take_different_tensors_differ() -> None:
    w, v = cr.tensor(1.0), cr.tensor(1.0)
    assert cr.trace(lambda x: x * w, 1.0) == cr.trace(lambda y: y * w, 1.0)
    assert cr.trace(lambda x: x * w, 1.0) != cr.trace(lambda x: x * v, 1.0)


def test_anything_can_be_compared() -> None:
    for value in ([1, [2.0]], {"a": {1: 2}}, {1, 2}, slice(1, None), np.arange(3), float("nan"), None, object()):
        assert frozen(value) == frozen(value)
        hash(frozen(value))
    assert frozen({1: 2}) != frozen({"1": 2})
    assert hash(cr.trace(lambda x: (x, {1, 2}), 1.0))


def test_a_graph_cannot_be_changed() -> None:
    graph = cr.trace(neuron, *NEURON)
    for record, field in ((graph, "nodes"), (graph, "outputs"), (graph.nodes[0], "inputs"), (graph.nodes[0], "params")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, field, ())
    assert isinstance(graph.nodes, tuple)
    before = str(graph), graph.key()
    nodes: list[Operation] = [*graph.nodes]
    other = graph.with_nodes([dataclasses.replace(nodes[0], outputs=(Variable(nodes[0].output.aval, "L"),)), *nodes], graph.outputs)
    assert [x.name for node in other.nodes for x in node.outputs] == ["L_2", "s0", "s1", "s2", "s3", "L"]
    graph.grad()
    graph.run(*NEURON)
    assert (str(graph), graph.key()) == before


# Running


class Pair(NamedTuple):
    first: Any
    second: Any


def test_containers_go_in_and_come_out_as_they_are_nested() -> None:
    def f(p: Pair, xs: list[Any], options: dict[str, Any], nothing: None) -> Any:
        total = p.first + sum(xs, 0.0) + options["b"][0]
        return Pair(total, {"z": (p.second, [None, xs[0]]), "a": 3}), (), [], "text", None, 2.5, total > 0

    example = (Pair(1.0, np.ones(2)), [1.0, 2.0], {"b": (1.0,), "a": ()}, None)
    graph = cr.trace(f, *example)
    out = graph.run(Pair(2.0, np.zeros(2)), [3.0, 4.0], {"b": (5.0,), "a": ()}, None)
    assert isinstance(out[0], Pair)
    assert out[0].first.item() == 14
    assert [*out[0].second] == ["z", "a"]
    assert out[0].second["z"][0].tolist() == [0, 0]
    assert out[0].second["z"][1][0] is None
    assert out[0].second["a"] == 3
    assert out[1:6] == ((), [], "text", None, 2.5)
    assert out[6].dtype == bool


@pytest.mark.parametrize("result", [None, 3, (), {"a": None}, [1, (2.0, True)]])
def test_functions_without_tensors_among_their_results(result: Any) -> None:
    assert cr.trace(lambda x: result, 1.0).run(2.0) == result
    assert cr.trace(lambda: result).run() == result


def test_an_argument_can_be_a_result_and_be_it_twice() -> None:
    x = cr.tensor([1.0])
    first, second = cr.trace(lambda x: (x, [x]), x).run(x)
    assert first.tolist() == second[0].tolist() == [1]
    first += 1
    assert x.tolist() == [1]


BAD_ARGUMENTS: dict[str, tuple[tuple[Any, ...], str]] = {
    "too few": ((np.ones(2),), r"f was traced with arguments \(\*, \{'a': \*\}\), not \(\*\)"),
    "too many": ((np.ones(2), {"a": 1.0}, 1.0), "f was traced with arguments"),
    "another key": ((np.ones(2), {"b": 1.0}), r"\{'a': \*\}\), not \(\*, \{'b': \*\}\)"),
    "a list": (([1.0, 2.0], {"a": 1.0}), "f was traced with arguments"),
    "None": ((None, {"a": 1.0}), "f was traced with arguments"),
    "shape": ((np.ones(3), {"a": 1.0}), r"argument x is float64\(3\), but the graph was traced with float64\(2\)"),
    "rank": ((np.float64(1.0), {"a": 1.0}), r"argument x is float64\(\), but the graph was traced with float64\(2\)"),
    "dtype": ((np.ones(2, np.float32), {"a": 1.0}), r"argument x is float32\(2\), but the graph was traced with float64\(2\)"),
    "kind": ((np.ones(2), {"a": 1.0j}), r"argument y_a is complex64\(\), but"),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_other_arguments_than_the_examples_are_refused(case: str) -> None:
    arguments, says = BAD_ARGUMENTS[case]

    def f(x: cr.Tensor, y: dict[str, cr.Tensor]) -> cr.Tensor:
        return x * y["a"]

    graph = cr.trace(f, np.ones(2), {"a": 1.0})
    with pytest.raises(ArgumentError, match=says) as caught:
        graph.run(*arguments)
    assert caught.value.mend
    assert "test_graph" in caught.value.where


def test_python_numbers_take_the_dtype_of_the_example_if_they_fit() -> None:
    assert cr.trace(lambda x: x * 2, np.float64(1.0)).run(3).dtype == np.float64
    assert cr.trace(lambda x: x * 2, 1).run(3).item() == 6
    with pytest.raises(ArgumentError, match=r"argument x is float32\(\), but the graph was traced with int64\(\)"):
        cr.trace(lambda x: x * 2, 1).run(2.5)


def test_a_graph_runs_in_every_mode() -> None:
    graph = cr.trace(lambda x: cr.sum(cr.exp(x) * x), np.ones(3))
    x = cr.tensor([0.1, 0.2, 0.3], dtype="float64", requires_grad=True)
    f = lambda x: cr.sum(cr.exp(x) * x)
    expected = cr.grad(f)(x.detach()).tolist()
    graph.run(x).backward()
    assert x.grad is not None
    assert x.grad.tolist() == expected
    assert cr.grad(graph.run)(x.detach()).tolist() == expected
    assert cr.jvp(graph.run, (x.detach(),), (np.ones(3),))[1].item() == pytest.approx(sum(expected))
    assert cr.vmap(graph.run)(np.ones((5, 3))).tolist() == [f(cr.ones(3, dtype="float64")).item()] * 5
    assert cr.trace(graph.run, np.ones(3)) == graph
    with cr.no_grad():
        assert not graph.run(x).requires_grad


def test_an_error_while_running_names_the_callers_line() -> None:
    graph = cr.trace(lambda x: cr.linalg.inv(x), np.eye(2))
    with pytest.raises(cr.errors.LinAlgError) as caught:
        graph.run(np.zeros((2, 2)))
    assert "graph.run(np.zeros" in caught.value.where


# Differentiating


def product(x: Any, y: Any, n: Any) -> Any:
    return cr.sum(x["a"] * x["b"][0] ** 2 * y) * n


PRODUCT = ({"a": 2.0, "b": [3.0]}, 5.0, 2)


def test_the_gradient_is_by_position_by_name_by_several_and_by_all() -> None:
    graph = cr.trace(product, *PRODUCT)

    def found(wrt: Any) -> Any:
        return tree.map(lambda x: x.item(), graph.grad(wrt).verify().run(*PRODUCT))

    nested = {"a": 90, "b": [120]}
    assert found(0) == found("x") == found(-3) == nested
    assert found(1) == found("y") == 36
    assert found([1]) == (36,)
    assert found(("y", 0)) == (36, nested)
    assert found(None) == (nested, 36)


def test_what_cannot_be_differentiated_is_told() -> None:
    graph = cr.trace(product, *PRODUCT)
    with pytest.raises(ArgumentError, match="product has no argument 'z'") as caught:
        graph.grad("z")
    assert "x_a" in caught.value.mend
    wrong: Any
    for wrong in (3, -4, 1.5):
        with pytest.raises(ArgumentError, match=f"product has no argument {wrong}"):
            graph.grad(wrong)
    with pytest.raises(GradientError, match="int64 cannot be differentiated"):
        graph.grad("n")
    with pytest.raises(GradientError, match=r"shape \(2,\), not a scalar"):
        cr.trace(lambda x: x * 2.0, np.ones(2)).grad()
    with pytest.raises(GradientError, match="returned a dict"):
        cr.trace(lambda x: {"loss": x}, 1.0).grad()
    with pytest.raises(GradientError, match="no argument of real floating point"):
        cr.trace(lambda n: n * 2.0, 1).grad()


def test_gradients_of_gradients_to_the_third_order() -> None:
    graph = cr.trace(lambda x: cr.sin(x) * x, np.float64(0.7))
    f = lambda x: cr.sin(x) * x
    third = cr.grad(cr.grad(cr.grad(f)))(np.float64(0.7)).item()
    assert graph.grad(0).grad(0).grad(0).verify().run(np.float64(0.7)).item() == third
    assert cr.grad(graph.grad(0).grad(0).run)(np.float64(0.7)).item() == third
    assert cr.trace(cr.grad(cr.grad(f)), np.float64(0.7)).grad(0).run(np.float64(0.7)).item() == third
    assert cr.grad(cr.grad(cr.grad(graph.run)))(np.float64(0.7)).item() == third
    assert cr.jvp(graph.grad(0).grad(0).run, (np.float64(0.7),), (np.float64(1.0),))[1].item() == pytest.approx(third)


def test_what_the_result_does_not_depend_on_has_a_gradient_of_zeros() -> None:
    assert cr.trace(lambda x, y: cr.sum(x), np.ones(2), np.ones(3)).grad("y").run(np.ones(2), np.ones(3)).tolist() == [0, 0, 0]


def test_a_graph_is_pickled_with_its_constants_and_what_it_took_from_outside():
    w = cr.tensor([1.0, 2.0])
    graph = cr.trace(lambda x: cr.sum(w * x) + 1.0, cr.ones(2))
    again = pickle.loads(pickle.dumps(graph))
    assert str(again) == str(graph)
    assert again.run(cr.ones(2)).item() == 4
