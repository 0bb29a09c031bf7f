"""Flat code: the printed module runs with NumPy alone, gives what the library gives, and reads as the lectures write it."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.core import tree
from chainrule.core.errors import ArgumentError, GradientError
from chainrule.core.primitive import TABLE, Primitive, Sample, functions
from chainrule.graph.ir import Graph
from chainrule.tensor import Tensor
from chainrule.view.source import Listing, listed, source
from chainrule.view.targets import helpers, phrases
from chainrule.view.targets.numpy import _Body, _Module
from gates import CUT
from test_models import every_model, made, total

GOLDEN = Path(__file__).parent / "golden"


def neuron(w0: Any, x0: Any, w1: Any, x1: Any, w2: Any) -> Any:
    s0 = w0 * x0
    s1 = w1 * x1
    s2 = s0 + s1
    s3 = s2 + w2
    L = cr.sigmoid(s3)
    return L  # noqa: RET504, the name is what is tested


NEURON = (2.0, -1.0, -3.0, -2.0, -3.0)


def loaded(text: str, name: str) -> Callable[..., Any]:
    """The function of a printed module, which must import nothing of the library."""
    assert "chainrule" not in text
    space: dict[str, Any] = {}
    exec(compile(text, name, "exec"), space)
    return space[name]


def statements(text: str) -> list[str]:
    return [line.split("  #")[0].strip() for line in text.splitlines()]


# The lectures' example


def test_the_neuron_reads_as_the_lecture_writes_it() -> None:
    text = source(neuron, *NEURON)
    assert text == (GOLDEN / "source_neuron.py.txt").read_text()
    lines = statements(text)
    backward = lines[lines.index("grad_L = 1") :]
    assert backward[:10] == [
        "grad_L = 1",
        "grad_s3 = grad_L * (1 - L) * L",
        "grad_w2 = grad_s3",
        "grad_s2 = grad_s3",
        "grad_s0 = grad_s2",
        "grad_s1 = grad_s2",
        "grad_w1 = grad_s1 * x1",
        "grad_x1 = grad_s1 * w1",
        "grad_w0 = grad_s0 * x0",
        "grad_x0 = grad_s0 * w0",
    ]


def test_the_neuron_runs_on_plain_numbers() -> None:
    value, gradients = loaded(source(neuron, *NEURON), "neuron")(*NEURON)
    assert round(value, 2) == 0.73
    assert {name: round(float(g), 2) for name, g in gradients.items()} == {"w0": -0.2, "x0": 0.39, "w1": -0.39, "x1": -0.59, "w2": 0.2}


def test_a_graph_prints_as_its_function_does() -> None:
    graph = cr.trace(neuron, *NEURON)
    assert graph.source() == cr.source(neuron, *NEURON) == source(neuron, *NEURON)


# Reading


def test_gradients_add_where_a_value_branches() -> None:
    def f(x: Any) -> Any:
        y = x * x
        z = y * x
        return cr.sum(z + y)

    lines = statements(source(f, np.ones(3)))
    assert "grad_y = grad_z + grad_z * x" in lines
    assert "grad_x = grad_z * y + grad_y * x + grad_y * x" in lines


def test_unbroadcasting_is_the_sum_that_it_is() -> None:
    def f(x: Any, b: Any, c: Any) -> Any:
        y = x + b + c
        return y  # noqa: RET504

    text = source(f, np.ones((2, 3)), np.ones(3), np.ones((2, 1)))
    assert "grad_b = grad_y.sum(axis=0)  # float64(3)" in text
    assert "grad_c = grad_y.sum(axis=1, keepdims=True)  # float64(2, 1)" in text


def test_layers_stand_under_their_paths_in_both_passes() -> None:
    model, inputs = made("mlp")
    lines = source(lambda x: total(model(x)), *inputs).splitlines()
    paths = [line.strip() for line in lines if line.startswith("    # layers.")]
    assert paths[0] == "# layers.0"
    assert paths.count("# layers.1") == 2
    start = lines.index("    # layers.1")
    assert "layers_1_kernel" in lines[start + 1]


def test_a_result_that_is_no_scalar_takes_its_gradient_as_an_argument() -> None:
    def f(x: Any) -> Any:
        y = cr.exp(x)
        return y  # noqa: RET504

    run = loaded(source(f, np.zeros(2)), "f")
    value, gradients = run(np.zeros(2), np.array([1.0, 2.0]))
    assert (value == 1).all()
    assert (gradients["x"] == [1.0, 2.0]).all()


def test_only_what_requires_a_gradient_is_differentiated_by_if_anything_does() -> None:
    w = cr.tensor([1.0, 2.0], requires_grad=True)

    def loss(x: Any) -> Any:
        return cr.sum(w * x)

    assert differentiated_by(listed(loss, np.ones(2))) == ["w"]
    assert differentiated_by(listed(loss, np.ones(2), wrt=["x"])) == ["x"]


def differentiated_by(listing: Listing) -> list[str]:
    return [listing.names[x] for x, _ in listing.gradients]


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        (lambda a, b: a - (b - a), "a - (b - a)"),
        (lambda a, b: (a - b) - a, "a - b - a"),
        (lambda a, b: a * (b * a), "a * b * a"),
        (lambda a, b: a / (b * a), "a / (b * a)"),
        (lambda a, b: (a + b) * a, "(a + b) * a"),
        (lambda a, b: (-a) ** 2, "(-a) ** 2"),
        (lambda a, b: a + -b, "a - b"),
        (lambda a, b: -(a**2), "-a ** 2"),
        (lambda a, b: -(a * b), "-(a * b)"),
        (lambda a, b: (a % b) * a, "a % b * a"),
        (lambda a, b: a * (a % b * b), "a * (a % b * b)"),
        (lambda a, b: a ** (b + 1), "a ** (b + 1)"),
        (lambda a, b: cr.where((a > b) & (a < 1), a, b), "np.where((a > b) & (a < 1), a, b)"),
    ],
)
def test_parentheses_stand_where_they_are_needed_and_nowhere_else(expression: Callable[..., Any], text: str) -> None:
    """Seen in the backward pass, where what is used once stands inside of what uses it."""
    a, b = np.array([0.5, 2.0]), np.array([1.5, 0.25])
    graph = cr.trace(lambda a, b: expression(a, b), a, b)
    printed = written_in_one(graph)
    assert printed == text
    np.testing.assert_allclose(eval(printed, {"np": np, "a": a, "b": b}), graph.run(a, b).numpy(), rtol=1e-15)


def written_in_one(graph: Graph) -> str:
    """The result as one expression of the inputs."""
    body = _Body(_Module(()), graph, {x: x.name for x in graph.inputs}, set())
    for node in graph.nodes:
        body.inside[node.output] = body._expression(node)
    return body.inside[graph.outputs[0]].text


def test_names_that_python_or_the_module_needs_are_not_taken() -> None:
    def f(np: Any, sigmoid: Any) -> Any:
        exp = cr.sigmoid(np * sigmoid)
        return cr.sum(exp)

    x = np.array([1.0, 2.0])
    value, gradients = loaded(source(f, x, x), "f")(x, x)
    expected = cr.value_and_grad(f, argnums=(0, 1))(x, x)
    np.testing.assert_allclose(value, expected[0].numpy())
    for found, wanted in zip(gradients.values(), expected[1], strict=True):
        np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-12)


def test_a_step_of_a_loop_may_call_its_values_as_gates_too() -> None:
    def f(h: Any, xs: Any) -> Any:
        def step(h: Any, x: Any) -> Any:
            sigmoid = cr.sigmoid(h * x)
            return cr.sigmoid(sigmoid + h), sigmoid

        h = cr.sigmoid(h)
        last, every = cr.scan(step, h, xs)
        return last + cr.sum(every)

    given = (np.array(0.5), np.array([1.0, -2.0, 0.3]))
    value, gradients = loaded(source(f, *given), "f")(*given)
    expected, slopes = cr.value_and_grad(f, argnums=(0, 1))(*given)
    np.testing.assert_allclose(value, expected.numpy(), rtol=1e-13)
    for found, wanted in zip(gradients.values(), slopes, strict=True):
        np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-12)


def test_a_layer_prints_as_its_vector_jacobian_product() -> None:
    layer = cr.nn.Dense(2, activation="relu")
    x = np.array([[1.0, -2.0, 3.0]], np.float32)
    text = source(layer, x)
    seed = np.array([[1.0, 2.0]], np.float32)
    value, gradients = loaded(text, "Dense")(x, *(p.detach().numpy() for p in layer.parameters()), seed)
    out = layer(x)
    out.backward(seed)
    np.testing.assert_allclose(value, out.detach().numpy(), rtol=1e-6)
    for found, parameter in zip(gradients.values(), layer.parameters(), strict=True):
        assert parameter.grad is not None
        np.testing.assert_allclose(found, parameter.grad.numpy(), rtol=1e-6)


def test_a_result_may_be_an_argument_and_a_result_twice() -> None:
    def f(x: Any) -> Any:
        y = x * 2.0
        return x, y, y

    value, gradients = loaded(source(f, np.ones(2)), "f")(np.ones(2), np.full(2, 10.0), np.full(2, 1.0), np.full(2, 3.0))
    assert [one.tolist() for one in value] == [[1.0, 1.0], [2.0, 2.0], [2.0, 2.0]]
    assert gradients["x"].tolist() == [18.0, 18.0]


def test_a_function_may_be_called_as_a_gate_that_it_uses() -> None:
    def sigmoid(x: Any) -> Any:
        return cr.sigmoid(x)

    text = source(sigmoid, 0.0)
    assert "def sigmoid_2(x):" in text or "def sigmoid_2(" in text


# Everything that can be printed gives what the library gives


def public_function(primitive: Primitive) -> Callable[..., Any]:
    name = primitive.name
    return next(found for found in (getattr(home, name, None) for home in (cr, cr.linalg, cr.random, functions)) if found is not None)


def of_arrays(primitive: Primitive, sample: Sample) -> tuple[Callable[..., Any], list[Any]]:
    """A sample as a function of the arrays among its arguments; masks in an index are none."""
    leaves, structure = tree.flatten((sample.args, dict(sample.kwargs)))
    places = [
        i
        for i, leaf in enumerate(leaves)
        if isinstance(leaf, (np.ndarray, np.generic, Tensor)) and (leaf.dtype != bool or primitive.kernel != "move")
    ]
    function = public_function(primitive)

    def run(*arrays: Any) -> Any:
        given = dict(zip(places, arrays, strict=True))
        args, kwargs = structure.rebuild(given.get(i, leaf) for i, leaf in enumerate(leaves))
        return function(*args, **kwargs)

    return run, [np.asarray(leaves[i].numpy() if isinstance(leaves[i], Tensor) else leaves[i]) for i in places]


def samples_of(primitive: Primitive, dtype: str = "float64") -> list[tuple[Graph, list[Any]]]:
    """Traced samples with their arrays, real ones in the given precision."""
    rng = np.random.default_rng([0, zlib.crc32(primitive.name.encode())])
    found: list[tuple[Graph, list[Any]]] = []
    for run, arrays in (of_arrays(primitive, sample) for sample in primitive.samples(rng)):
        arrays = [x.astype(dtype) if x.dtype == np.float64 else x for x in arrays]
        found.append((cr.trace(run, *arrays), arrays))
    # A loop without a step does not say what it would collect.
    return [(graph, arrays) for graph, arrays in found if not any(node.params.get("length") == 0 for node in graph.nodes)]


def differentiable(graph: Graph) -> bool:
    reals = all(any(x.dtype.kind == "f" for x in some) for some in (graph.returned, graph.parameters))
    return reals and not any(node.primitive.name in CUT for node in graph.nodes)


# Other sums and other approximations of the same functions, and samples that are not all well conditioned.
@pytest.mark.parametrize(("dtype", "rtol", "atol"), [("float64", 1e-12, 1e-12), ("float32", 2e-4, 2e-5)])
@pytest.mark.parametrize("name", sorted(TABLE))
def test_every_gate_prints_as_code_that_gives_its_values_and_gradients(name: str, dtype: str, rtol: float, atol: float) -> None:
    for graph, arrays in samples_of(TABLE[name], dtype):
        if not differentiable(graph):
            continue
        listing = listed(graph)
        rng = np.random.default_rng(1)
        seeds = [np.asarray(rng.normal(size=x.shape), x.dtype) for x in listing.graph.inputs[len(graph.inputs) :]]
        given = [*arrays, *(x.numpy() for x in graph.read()), *seeds]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = loaded(source(graph), "run")(*(x.copy() for x in given))
        expected = [x.numpy() for x in listing.graph.apply([cr.asarray(x) for x in given])]
        values = [*(found[0] if len(listing.values) > 1 else found[:1]), *found[1].values()]
        for one, other in zip(values, expected, strict=True):
            assert np.asarray(one).dtype == other.dtype
            np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


@every_model
def test_every_network_prints_as_code_that_gives_its_loss_and_gradients(name: str) -> None:
    model, inputs = made(name)
    model.astype("float64")
    inputs = tuple(x.astype("float64") if x.dtype.kind == "f" else x for x in inputs)

    def loss(*inputs: Any) -> Any:
        return total(model(*inputs))

    state = model.state_dict()
    cr.manual_seed(1)
    text, graph = source(loss, *inputs), cr.trace(loss, *inputs)
    # A copy: what the function assigns (running statistics, a generator's state) is assigned below.
    given = [np.array(x.detach().numpy()) for x in (*inputs, *graph.read())]
    result = loaded(text, "loss")(*given)
    model.load_state_dict(state)
    expected = loss(*inputs)
    expected.backward()
    outside = {x.name: source.tensor for source, x in zip(graph.captured, graph.inputs[len(graph.parameters) :], strict=True)}
    parameters = {id(parameter) for parameter in model.parameters()}
    assert {id(outside[key]) for key in result[1]} == parameters
    # Sums in another order.
    np.testing.assert_allclose(result[0], expected.detach().numpy(), rtol=1e-13)
    for key, found in result[1].items():
        gradient = outside[key].grad
        assert gradient is not None
        wanted = gradient.numpy()
        assert found.dtype == wanted.dtype
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-14, err_msg=key)
    for key, found in (result[2] if len(result) > 2 else {}).items():
        # A running mean may be next to 0, its summands are not.
        np.testing.assert_allclose(found, outside[key].numpy(), rtol=1e-13, atol=1e-14, err_msg=key)


def test_the_gradient_is_printed_where_nothing_is_recorded_too() -> None:
    with cr.no_grad():
        assert source(neuron, *NEURON) == (GOLDEN / "source_neuron.py.txt").read_text()


def test_checkpoints_leave_no_trace_in_the_code() -> None:
    f = cr.checkpoint(lambda x: cr.sum(cr.sin(cr.exp(x))))
    value, gradients = loaded(source(lambda x: f(x), np.ones(2)), "f")(np.ones(2))
    assert value == pytest.approx(2 * np.sin(np.e))
    np.testing.assert_allclose(gradients["x"], np.cos(np.e) * np.e)


def test_every_phrase_and_helper_belongs_to_a_gate() -> None:
    own = {name for name, one in vars(helpers).items() if getattr(one, "__module__", "") == helpers.__name__ and not name.startswith("_")}
    assert {*own, *phrases.PHRASES} <= {*TABLE, "while_loop_back"}


# What cannot be


def test_a_target_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ArgumentError, match="there is no target 'fortran'"):
        source(neuron, *NEURON, target="fortran")


def test_a_gate_that_cannot_be_printed_is_named() -> None:
    class Double(cr.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            return inputs[0] + inputs[0]

        @staticmethod
        def backward(ctx: Any, *cts: Any) -> Any:
            return cts[0] + cts[0]

    with pytest.raises(ArgumentError, match="cannot print the gate custom"):
        source(lambda x: cr.sum(Double.apply(x)), np.ones(2))


def test_a_result_that_depends_on_nothing_is_refused() -> None:
    with pytest.raises(GradientError, match="depend on nothing"):
        source(lambda x: cr.stop_gradient(x), 1.0)


def test_a_name_that_is_no_input_is_refused() -> None:
    with pytest.raises(ArgumentError, match="no real floating-point input 'w9'"):
        source(neuron, *NEURON, wrt=["w9"])


def test_a_large_array_from_outside_stands_as_letters_below_the_code() -> None:
    mask = np.random.default_rng(0).normal(size=(30, 10))

    def f(x: Any) -> Any:
        y = x * cr.asarray(mask)
        return cr.sum(y * y)

    text = source(f, np.ones(10))
    above, below = text.split("return t", 1)
    assert "import base64\nimport zlib\n\nimport numpy as np" in text
    assert len(above.splitlines()) < 30
    assert max(map(len, below.splitlines())) < 140
    value, gradients = loaded(text, "f")(np.full(10, 2.0))
    np.testing.assert_allclose(value, 4 * np.sum(mask**2), rtol=1e-12)
    np.testing.assert_allclose(gradients["x"], 4 * np.sum(mask**2, axis=0), rtol=1e-12)


def test_a_small_array_from_outside_and_one_of_one_number_stand_where_they_are_read() -> None:
    text = source(lambda x: cr.sum(x * cr.asarray(np.array([1.0, 2.5])) * cr.asarray(np.full((40, 2), 3.0))), np.ones(2))
    assert "np.array([1.0, 2.5]" in text
    assert 'np.full((40, 2), 3.0, "float64")' in text
    assert "base64" not in text


def test_a_scan_of_no_steps_hands_on_what_it_is_given() -> None:
    def f(c: Any, xs: Any) -> Any:
        last, rows = cr.scan(lambda c, x: (c * x, c + x), c, xs)
        return cr.sum(last) + cr.sum(rows)

    value, gradients = loaded(source(f, np.ones(3), np.ones((0, 3))), "f")(np.arange(3.0), np.ones((0, 3)))
    assert value == 3.0
    np.testing.assert_array_equal(gradients["c"], np.ones(3))
