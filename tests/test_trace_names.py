"""Where a graph's names, scopes and lines come from: the code that was traced."""

from __future__ import annotations

import gc
import types
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn
from chainrule.graph import naming
from chainrule.graph.naming import unnamed

GLOBAL = cr.tensor(3.0, requires_grad=True)


def helper(x: Any) -> Any:
    return x * 2.0


def helper_through_helper(x: Any) -> Any:
    return helper(x)


def helper_with_a_variable(x: Any) -> Any:
    inside = x * 2.0
    return inside  # noqa: RET504, for the name


def two(x: Any) -> Any:
    return x + 1.0, x - 1.0


def names(f: Callable[..., Any], *examples: Any) -> list[str]:
    """What the nodes' outputs are called, "" for made-up names."""
    graph = cr.trace(f, *(examples or (np.ones(2),)))
    return ["" if unnamed(x) else x.name for node in graph.nodes for x in node.outputs]


def test_a_variable() -> None:
    def f(x: Any) -> Any:
        y = x * 2.0
        z: Any = cr.exp(y)
        return z + y

    assert names(f) == ["y", "z", ""]


def test_the_last_of_several_operations_on_a_line() -> None:
    def f(x: Any) -> Any:
        y = (x * 2.0 + 1.0) / cr.sum(x)
        return y  # noqa: RET504

    assert names(f) == ["", "", "", "y"]


def test_unpacking() -> None:
    def f(x: Any) -> Any:
        a, b = x + 1.0, x - 1.0
        c, d, e = x * 1.0, x * 2.0, x * 3.0
        g, h, i, j = x * 4.0, x * 5.0, x * 6.0, x * 7.0
        k, (m, n) = x * 8.0, (x * 9.0, x * 10.0)
        return a, b, c, d, e, g, h, i, j, k, m, n

    assert names(f) == [*"abcdeghijkmn"]


def test_unpacking_the_results_of_a_gate() -> None:
    def f(x: Any) -> Any:
        first, second = cr.split(x, 2)
        q, r = cr.linalg.qr(cr.reshape(x, (2, 1)))
        _, s, _ = cr.linalg.svd(cr.reshape(x, (2, 1)))
        return first, second, q, r, s

    assert [name for name in names(f) if name] == ["first", "second", "q", "r", "s"]


def test_what_helpers_return() -> None:
    def f(x: Any) -> Any:
        a = helper(x)
        b = helper_through_helper(x)
        c = helper_with_a_variable(x)
        d, e = two(x)
        return a, b, c, d, e

    assert names(f) == ["a", "b", "inside", "d", "e"]


def test_the_librarys_own_functions_hand_names_through() -> None:
    def f(x: Any) -> Any:
        a = x.sum()
        b = cr.mean(x)
        c = x[0]
        d = -x
        e = 2.0 - x
        g = x.reshape(2, 1).T
        h = cr.linalg.vector_norm(x)
        return a, b, c, d, e, g, h

    assert [name for name in names(f) if name] == [*"abcdegh"]


def test_attributes_keys_and_parts() -> None:
    box = types.SimpleNamespace()

    def f(x: Any) -> Any:
        box.held = x * 1.0
        found: dict[str, Any] = {}
        found["key"] = x * 2.0
        found["not a name"] = x * 3.0
        pair = x * 4.0, x * 5.0
        listed = [x * 6.0, x * 7.0]
        return pair, listed, found

    assert names(f) == ["held", "key", "", "pair_0", "pair_1", "listed_0", "listed_1"]


def test_comprehensions() -> None:
    def f(x: Any) -> Any:
        rows = [x * float(i) for i in range(3)]
        table = {i: x + i for i in (1.0, 2.0)}
        return rows, table

    assert names(f) == ["rows", "rows_2", "rows_3", "table", "table_2"]


def test_several_names_conditions_and_walrus() -> None:
    def f(x: Any, flag: bool = True) -> Any:
        a = b = x * 1.0
        c = x * 2.0 if flag else x * 3.0
        if (d := x * 4.0) is not None:
            e = (x * 5.0) if not flag else (x * 6.0)
        with cr.enable_grad():
            g = x * 7.0
        return a, b, c, d, e, g

    assert names(f) == ["a", "c", "d", "e", "g"]


def test_changing_in_place() -> None:
    def f(x: Any) -> Any:
        y = x * 2.0
        y += 1.0
        y[0] = 3.0
        y.assign(y / 2.0)
        return y

    graph = cr.trace(f, np.ones(2))
    assert [x.name for x in graph.outputs] == ["y_4"]
    assert [x.name for node in graph.nodes for x in node.outputs if x.name.startswith("y")] == ["y", "y_2", "y_3", "y_4"]


def test_repeated_names_are_numbered() -> None:
    def f(x: Any) -> Any:
        for _ in range(3):
            x = cr.sin(x)
        return x

    assert names(f) == ["x_2", "x_3", "x_4"]


def test_functions_without_a_name_and_without_names() -> None:
    graph = cr.trace(lambda x, y: x * y + 1.0, 1.0, 2.0)
    assert graph.name == "f"
    assert [x.name for x in graph.inputs] == ["x", "y"]
    assert [x.name for x in cr.trace(lambda *xs: xs[0] * xs[1], 1.0, 2.0).inputs] == ["xs0", "xs1"]
    assert cr.trace(cr.exp, 1.0).name == "exp"
    assert cr.trace(nn.ReLU(), np.ones(2)).name == "ReLU"


def test_arguments_in_containers() -> None:
    graph = cr.trace(lambda p, rest: p["w"] * p["b"][1] + rest[0], {"w": 1.0, "b": [2.0, 3.0]}, (1.0,))
    assert [x.name for x in graph.inputs] == ["p_w", "p_b_0", "p_b_1", "rest_0"]


def outside(f: Callable[..., Any], *examples: Any) -> list[str]:
    graph = cr.trace(f, *examples)
    return [x.name for x in graph.inputs[len(graph.parameters) :]]


class Held:
    def __init__(self) -> None:
        self.weight = cr.tensor(1.0)

    def __call__(self, x: Any) -> Any:
        return x * self.weight


def test_what_is_taken_from_outside_is_called_as_the_code_calls_it() -> None:
    w = cr.tensor(2.0)
    p = {"w": cr.tensor(1.0), "b": [cr.tensor(2.0)]}
    b = p["b"]
    assert outside(lambda x: x * GLOBAL, 1.0) == ["GLOBAL"]
    assert outside(lambda x: x * w, 1.0) == ["w"]
    assert outside(lambda x: x * p["w"] + b[0], 1.0) == ["p_w", "b_0"]
    assert outside(Held(), 1.0) == ["weight"]
    held = Held()
    assert outside(lambda x: x + held.weight, 1.0) == ["held_weight"]
    assert outside(lambda x: held(x), 1.0) == ["weight"]


class Net(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential([nn.Dense(2, "relu"), nn.Dense(2)])
        self.heads = {"left": nn.Dense(1), "right": nn.Dense(1)}
        self.shift = cr.tensor(1.0, requires_grad=True)

    def call(self, x: Any) -> Any:
        code = self.encoder(x)
        left, right = self.heads["left"](code), self.heads["right"](code)
        return left + right + self.shift


def test_parameters_have_the_path_of_their_layer_and_nodes_its_scope() -> None:
    net = Net().initialize((1, 3))
    graph = cr.trace(net, np.ones((4, 3), np.float32))
    kernels = ["encoder_layers_0_kernel", "encoder_layers_1_kernel", "heads_left_kernel", "heads_right_kernel"]
    assert [x.name for x in graph.inputs[1:] if "bias" not in x.name] == [*kernels, "shift"]
    scopes = {node.inputs[1].name: node.scope for node in graph.nodes if node.primitive.name == "matmul"}
    assert scopes == {
        "encoder_layers_0_kernel": ("encoder", "layers.0"),
        "encoder_layers_1_kernel": ("encoder", "layers.1"),
        "heads_left_kernel": ("heads.left",),
        "heads_right_kernel": ("heads.right",),
    }
    assert graph.nodes[-1].scope == ()
    assert {"code", "left", "right"} <= {x.name for node in graph.nodes for x in node.outputs}


def test_a_layer_may_call_itself_what_it_likes() -> None:
    class Scale(nn.Layer):
        def __init__(this) -> None:  # noqa: N805
            super().__init__()
            this.factor = cr.tensor(2.0, requires_grad=True)

        def call(this, x: Any) -> Any:  # noqa: N805
            return x * this.factor

    model = nn.Sequential([nn.ReLU(), Scale()])
    assert [x.name for x in cr.trace(model, 1.0).inputs[1:]] == ["layers_1_factor"]


def test_gradients_stand_in_the_layer_whose_gradients_they_are() -> None:
    net = Net().initialize((1, 3))
    graph = cr.trace(lambda x: cr.sum(net(x)), np.ones((4, 3), np.float32)).grad()
    after = [node.scope for node in graph.nodes[[node.primitive.name for node in graph.nodes].index("sum") + 1 :]]
    assert after[-1] == ("encoder", "layers.0")
    assert ("heads.left",) in after


def test_lines_are_those_of_the_callers_code() -> None:
    def f(x: Any) -> Any:
        y = helper(x)
        z = cr.sum(
            y
            * y
        )  # fmt: skip
        return cr.linalg.vector_norm(x) + z

    graph = cr.trace(f, np.ones(2))
    assert {node.line[0] for node in graph.nodes} == {__file__}
    first = f.__code__.co_firstlineno
    assert graph.nodes[0].line[1] == helper.__code__.co_firstlineno + 1
    assert [node.line[1] - first for node in graph.nodes[1:]] == [3, 2, *[6] * (len(graph.nodes) - 3)]


def test_lines_and_names_survive_another_trace() -> None:
    def f(x: Any) -> Any:
        y = x * GLOBAL
        z = cr.sin(y)
        return z * y

    graph = cr.trace(f, 1.0)
    again = cr.trace(graph.run, 1.0)
    assert again == graph
    assert [node.output.name for node in again.nodes] == [node.output.name for node in graph.nodes]
    assert [node.line for node in again.nodes] == [node.line for node in graph.nodes]
    gradient = graph.grad()
    assert [x.name for x in gradient.inputs] == ["x", "GLOBAL"]
    assert [node.line for node in gradient.nodes][:3] == [node.line for node in graph.nodes]
    assert {"y", "z", "grad_y", "grad_x", "grad_z"} <= {x.name for node in gradient.nodes for x in node.outputs}


def test_code_that_was_typed_or_made_has_lines_too() -> None:
    scope: dict[str, Any] = {"cr": cr}
    exec(compile("def f(x):\n    y = cr.exp(x)\n    return y", "<typed>", "exec"), scope)
    graph = cr.trace(scope["f"], 1.0)
    assert graph.nodes[0].line == ("<typed>", 2)
    assert graph.nodes[0].output.name == "y"


def test_code_is_let_go_when_nobody_else_holds_it() -> None:
    scope: dict[str, Any] = {"cr": cr}
    exec(compile("def f(x):\n    y = cr.exp(x)\n    return y", "<typed>", "exec"), scope)
    cr.trace(scope["f"], 1.0)
    code = weakref.ref(scope["f"].__code__)
    number = id(code())
    assert number in naming._tables
    del scope
    gc.collect()
    assert code() is None
    assert number not in naming._tables


def test_names_cost_little_in_long_functions() -> None:
    """Each function's instructions are read once, and the fate of each call is looked up once."""
    body = "".join(f"    y{i} = cr.sin(x)\n" for i in range(2000))
    scope: dict[str, Any] = {"cr": cr}
    exec(compile(f"def f(x):\n{body}    return y0", "<long>", "exec"), scope)
    read: list[Any] = []
    disassemble = naming.dis.get_instructions

    def counted(code: Any, **options: Any) -> Any:
        read.append(code)
        return disassemble(code, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(naming.dis, "get_instructions", counted)
        graph = cr.trace(scope["f"], 1.0)
    assert [node.output.name for node in graph.nodes[:3]] == ["y0", "y1", "y2"]
    assert read.count(scope["f"].__code__) == 1


@pytest.mark.parametrize(
    "source",
    [
        "a = [v for v in [k(x)]][0]",
        "a = (lambda: k(x))()",
        "a = next(v for v in (k(x),))",
        "a = {**{'v': k(x)}}['v']",
        "a = f'{1}' and k(x)",
        "a = k(*[x], **{})",
        "a, *b = k(x), 1, 2",
        "(a, b), c = (k(x), 1), 2",
        "a = [k(x), *[1]][0]",
        "a = max([1], key=lambda v: k(x).shape)",
        "try:\n        a = k(x)\n    finally:\n        a = a",
        "for a in [k(x)]: pass",
        "global G; G = k(x); a = G",
        "a = k(x); del x",
        "a = (yield_ := k(x))",
        "import functools; a = functools.reduce(lambda u, v: u + v, [k(x), k(x)])",
        "a = sorted([1, 2], key=lambda v: id(k(x)))[0]",
        "class C: v = k(x)\n    a = C.v",
        "a = dict(v=k(x))['v']",
        "a = k(x)[()] if True else k(x)",
        "assert k(x) is not None; a = k(x)",
    ],
)
def test_no_code_is_too_odd_to_trace(source: str) -> None:
    scope: dict[str, Any] = {"k": cr.exp}
    exec(f"def f(x):\n    {source}\n    return 1", scope)
    graph = cr.trace(scope["f"], 1.0)
    assert graph.nodes
    assert all(x.name.isidentifier() for node in graph.nodes for x in node.outputs)


def test_what_generators_yield_has_no_name() -> None:
    def rows(x: Any) -> Any:
        for i in range(2):
            yield x * float(i)

    assert names(lambda x: list(rows(x))) == ["", ""]
