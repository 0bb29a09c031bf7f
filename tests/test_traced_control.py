"""cond, while_loop and scan in traced functions: one node each, and everything that holds of the loops in Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from textwrap import dedent
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.core import tree
from chainrule.core.errors import ArgumentError, ChainruleError, DtypeError, LinAlgError, ShapeError, TraceError
from chainrule.graph import derived
from chainrule.graph.inner import prune


def close(x: Any, y: Any, rtol: float = 1e-9) -> None:
    for one, other in zip(tree.leaves(x), tree.leaves(y), strict=True):
        np.testing.assert_allclose(plain(one), plain(other), rtol=rtol, atol=1e-11)


def plain(x: Any) -> Any:
    return np.asarray(x.detach() if isinstance(x, cr.Tensor) else x)


def gates(graph: cr.Graph) -> list[str]:
    return [node.primitive.name for node in graph.nodes]


def root(a: Any) -> Any:
    """Newton's method, with a counter of integers in the carry."""
    x, _ = cr.while_loop(lambda c: cr.abs(c[0] * c[0] - a) > 1e-12, lambda c: ((c[0] + a / c[0]) * 0.5, c[1] + 1), (a, 0))
    return x


def scan_in_cond(x: Any, w: Any) -> Any:
    def sums(x: Any) -> Any:
        last, ys = cr.scan(lambda c, v: (cr.sin(c * w) + v, c), cr.sum(x) * 0.1, x)
        return last + cr.sum(ys * ys)

    return cr.cond(cr.sum(x) > 0, sums, lambda x: cr.sum(x * w), x)


def cond_in_scan(x: Any, w: Any) -> Any:
    last, ys = cr.scan(lambda c, v: (cr.cond(v > 0, lambda c: c * v * w, lambda c: c - v, c), c), w, x, reverse=True)
    return last * last + cr.sum(cr.sin(ys))


def while_in_scan(x: Any, w: Any) -> Any:
    last, ys = cr.scan(lambda c, v: (root(v * v + c * c + w * w), root(1 + w * w)), w, x)
    return last + cr.sum(ys)


def scan_in_while(x: Any, w: Any) -> Any:
    def body(c: Any) -> Any:
        grown, _ = cr.scan(lambda h, v: (h + cr.abs(v * w), None), c["y"], x)
        return {"y": grown, "n": c["n"] + 1}

    return cr.while_loop(lambda c: c["y"] < 20, body, {"y": w * w, "n": 0})["y"]


def scan_in_scan(x: Any, w: Any) -> Any:
    def row(c: Any, v: Any) -> Any:
        inner, ys = cr.scan(lambda h, u: (cr.tanh(h * u + v), h * w), c, x)
        return inner, cr.sum(ys)

    last, ys = cr.scan(row, w, x)
    return last * cr.sum(ys)


PROGRAMS = [scan_in_cond, cond_in_scan, while_in_scan, scan_in_while, scan_in_scan]
XS = np.random.default_rng(0).normal(size=4) + 0.3
W = np.float64(0.7)
DIRECTION = np.random.default_rng(1).normal(size=4)


def gradient(f: Callable[..., Any]) -> Callable[..., Any]:
    return cr.grad(f, (0, 1))


def along(f: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, w: cr.jvp(f, (x, w), (DIRECTION, w))[1]


def directed(f: Callable[..., Any]) -> Callable[..., Any]:
    """A scalar that depends on all of the gradient."""
    return lambda x, w: cr.sum(gradient(f)(x, w)[0] * DIRECTION) + gradient(f)(x, w)[1] * w


DERIVATIVES: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "value": lambda f: f,
    "gradient": gradient,
    "jvp": along,
    "gradient of gradient": lambda f: gradient(directed(f)),
    "jvp of gradient": lambda f: along(directed(f)),
    "gradient of jvp": lambda f: gradient(along(f)),
    "jvp of jvp": lambda f: along(along(f)),
    "third order": lambda f: gradient(directed(along(f))),
}


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("name", DERIVATIVES)
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda f: f.__name__)
def test_a_traced_program_has_the_values_and_derivatives_of_the_eager_one(program, name, sign):
    """Whether the trace is differentiated, the derivative traced, or the half of it done within the trace."""
    x = XS * sign
    derivative = DERIVATIVES[name]
    expected = derivative(program)(x, W)
    graph = cr.trace(program, x, W)
    close(derivative(graph.run)(x, W), expected)
    close(cr.trace(derivative(program), x, W).verify().run(x, W), expected)


def test_each_is_one_node_with_inner_graphs():
    assert gates(cr.trace(root, 2.0)) == ["while_loop"]
    assert gates(cr.trace(lambda x: cr.scan(lambda c, v: (c + v, c), x[0], x), XS))[-1:] == ["scan"]
    assert gates(cr.trace(lambda x: cr.cond(x > 0, cr.log, cr.exp, x), 2.0)) == ["greater", "cond"]


def test_inner_graphs_print_as_functions():
    def f(h, w, xs):
        return cr.scan(lambda h, x: (cr.tanh(w * h + x), h), h, xs, reverse=True)

    assert str(cr.trace(f, 1.0, 2.0, cr.ones(3))) == dedent(
        """\
        def f(h: float32(), w: float32(), xs: float32(3)):
            def t1_body(h: float32(), x: float32(), w: float32()):
                t1 = w * h  # float32()
                t2 = t1 + x  # float32()
                t3 = tanh(t2)  # float32()
                return (t3, h, t3)
            t1, t2, t3 = scan(h, xs, w, body=t1_body, length=3, reverse=True, carried=1, sliced=1)  # float32(), float32(3), float32(3)
            return (t1, t2)"""
    )


def test_results_have_the_names_under_which_they_are_kept():
    def f(xs):
        total, partial = cr.scan(lambda c, x: (c + x, c), 0.0, xs)
        picked = cr.cond(total > 0, lambda: total, lambda: -total)
        return picked, partial

    assert "total, partial = scan(" in str(cr.trace(f, cr.ones(3)))
    assert "picked = cond(" in str(cr.trace(f, cr.ones(3)))


def test_the_gradient_of_a_while_loop_shows_its_step_back():
    text = str(cr.trace(root, 2.0).grad())
    assert "while_loop_back(1.0, 0.0, a, 0, a, cond=" in text
    assert "_back(grad_c_0: float32(), sum_a: float32(), c_0: float32(), c_1: int64(), a: float32()):" in text
    assert "function=pull_while_loop_back" in str(cr.trace(root, 2.0).grad(0).grad(0))


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda f: f.__name__)
def test_graphs_of_the_same_program_are_equal(program):
    first, second = (cr.trace(gradient(directed(program)), XS, W) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
    assert first != cr.trace(gradient(program), XS, W)


def test_inner_graphs_differ_where_their_functions_do():
    assert cr.trace(lambda x: cr.cond(x > 0, cr.log, cr.exp, x), 2.0) != cr.trace(lambda x: cr.cond(x > 0, cr.log, cr.sin, x), 2.0)


def test_derived_graphs_are_made_once(monkeypatch):
    graph = cr.trace(while_in_scan, XS, W)
    made: list[str] = []
    traced = derived.traced
    monkeypatch.setattr(derived, "traced", lambda name, *rest: made.append(name) or traced(name, *rest))
    gradient(graph.run)(XS, W)
    assert made
    made.clear()
    gradient(graph.run)(XS, W)
    assert not made


# What functions of control flow close over, draw and assign.


def test_parameters_closed_over_receive_gradients():
    xs = cr.asarray(np.random.default_rng(0).normal(size=(5, 3)))

    def losses(w, b):
        def network():
            h, ys = cr.scan(lambda h, x: ((new := cr.tanh(w @ h + x + b)), cr.sum(new)), b, xs)
            return cr.cond(cr.sum(h) > 0, lambda: cr.sum(h * b), lambda: cr.sum(h)) + cr.sum(ys)

        return network

    def parameters():
        rng = np.random.default_rng(1)
        return [cr.asarray(rng.normal(size=shape)).requires_grad_() for shape in ((3, 3), (3,))]

    eager, run, inside = parameters(), parameters(), parameters()
    losses(*eager)().backward()
    cr.trace(losses(*run)).run().backward()
    cr.trace(lambda: losses(*inside)().backward()).run()
    for one, other, third in zip(eager, run, inside, strict=True):
        close(other.grad, one.grad)
        close(third.grad, one.grad)


def test_both_branches_agree_on_what_they_take_from_outside():
    a, b, c = (cr.tensor(x, requires_grad=True) for x in (2.0, 3.0, 5.0))
    graph = cr.trace(lambda x: cr.cond(x > 0, lambda x: x * a + b, lambda x: b - c * x, x), 1.0)
    assert [graph.run(x).item() for x in (1.0, -1.0)] == [5.0, 8.0]
    graph.run(1.0).backward()
    graph.run(-1.0).backward()
    assert [t.grad.item() for t in (a, b, c)] == [1.0, 2.0, 1.0]


def test_random_numbers_differ_from_step_to_step_and_are_those_of_the_loop():
    def draws(generator):
        def step(total, v):
            dropped = cr.random.dropout(v, 0.5, generator=generator)
            return total + cr.sum(dropped), cr.random.uniform((2,), generator=generator)

        return lambda x: cr.scan(step, 0.0, x)

    x = cr.ones((4, 16))
    one, other = cr.random.Generator(7), cr.random.Generator(7)
    graph = cr.trace(draws(other), x)
    assert other.get_state().tolist() == [7, 0]
    for _ in range(2):
        total, ys = draws(one)(x)
        found, rows = graph.run(x)
        assert (found.item(), rows.tolist()) == (total.item(), ys.tolist())
        assert len({tuple(row) for row in rows.tolist()}) == 4
    assert other.get_state().tolist() == one.get_state().tolist() == [7, 16]


def test_a_branch_draws_and_assigns_only_if_it_is_taken():
    generator, count = cr.random.Generator(3), cr.tensor(0)

    def drawn(x):
        count.assign(count + 1)
        return x + cr.random.uniform((), generator=generator)

    graph = cr.trace(lambda x: cr.cond(x > 0, drawn, lambda x: x, x), 1.0)
    assert graph.run(-1.0).item() == -1.0
    assert (generator.get_state().tolist(), count.item()) == ([3, 0], 0)
    expected = 1.0 + cr.random.uniform((), generator=cr.random.Generator(3))
    assert graph.run(1.0).item() == expected.item()
    assert (generator.get_state().tolist(), count.item()) == ([3, 1], 1)


def test_state_goes_from_step_to_step():
    def statistics():
        mean = cr.zeros(2)

        def step(n, x):
            with cr.no_grad():
                mean.assign(0.9 * mean + 0.1 * x)
            return n + 1, cr.sum(mean * x)

        return mean, step

    xs = np.random.default_rng(0).normal(size=(5, 2)).astype("f4")
    (one, eager), (other, traced) = statistics(), statistics()
    _, ys = cr.scan(eager, 0, xs)
    graph = cr.trace(lambda xs: cr.scan(traced, 0, xs), xs)
    close(graph.run(xs)[1], ys, rtol=1e-6)
    close(other, one, rtol=1e-6)
    # The mean has no history, so the gradient takes it for a constant.
    other.assign(np.zeros(2))
    mean = np.zeros(2)
    means = [mean := 0.9 * mean + 0.1 * x for x in xs]
    close(cr.grad(lambda xs: cr.sum(graph.run(xs)[1]))(xs), np.stack(means), rtol=1e-5)


def descent(early: bool) -> tuple[list[cr.Tensor], Callable[..., Any]]:
    """Steps of gradient descent as a scan over batches; gradients are cleared before or after each."""
    w = cr.tensor([1.0, -2.0, 0.5], requires_grad=True)
    optimizer = cr.optim.SGD([w], lr=0.1, momentum=0.9)

    def step(n, batch):
        x, y = batch
        if early:
            optimizer.zero_grad()
        loss = cr.mean((x @ w - y) ** 2)
        loss.backward()
        optimizer.step()
        if not early:
            optimizer.zero_grad()
        return n + 1, loss.detach()

    return [w], lambda xs, ys: cr.scan(step, 0, (xs, ys))


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("way", [lambda f, *args: cr.trace(f, *args).run(*args), lambda f, *args: cr.compile(f)(*args)], ids=["trace", "compile"])
def test_training_steps_may_stand_in_a_scan(way, early):
    rng = np.random.default_rng(0)
    batches = rng.normal(size=(6, 4, 3)).astype("f4"), rng.normal(size=(6, 4)).astype("f4")
    (one,), eager = descent(early)
    (other,), traced = descent(early)
    close(way(traced, *batches)[1], eager(*batches)[1], rtol=1e-5)
    close(other, one, rtol=1e-5)
    assert (other.grad is None) == (one.grad is None) == (not early)
    if early:
        close(other.grad, one.grad, rtol=1e-4)


def test_what_is_detached_in_a_body_stays_so_in_its_gradient():
    f = lambda w, xs: cr.scan(lambda h, x: (h.detach() * w + x, None), w, xs)[0]
    close(cr.grad(cr.trace(f, W, XS).run)(W, XS), cr.grad(f)(W, XS))


def test_a_function_that_returns_what_is_outside_returns_it():
    a, b = cr.tensor(2.0), cr.tensor(3.0)
    graph = cr.trace(lambda x: cr.cond(x > 0, lambda: (a, 1), lambda: (b, 2)), 1.0)
    assert [tuple(part.item() for part in graph.run(x)) for x in (1.0, -1.0)] == [(2.0, 1), (3.0, 2)]


def test_control_flow_that_computes_nothing_is_no_node():
    def f(p, xs):
        return cr.cond(p, lambda: None, lambda: None), cr.scan(lambda c, x: (c, None), None, xs), cr.while_loop(lambda c: p, lambda c: c, ())

    graph = cr.trace(f, True, cr.ones(3))
    assert gates(graph) == []
    assert graph.run(True, cr.ones(3)) == (None, (None, None), ())


def test_python_numbers_choose_while_tracing():
    assert gates(cr.trace(lambda x: cr.cond(True, cr.log, cr.exp, x), 2.0)) == ["log"]


# What runs.


def test_only_the_branch_that_is_chosen_runs():
    graph = cr.trace(lambda x: cr.cond(cr.all(x == x.mT), cr.linalg.cholesky, lambda x: x * 0, x), np.eye(2))
    close(graph.run(np.eye(2)), np.eye(2))
    close(graph.run(np.array([[0.0, 1.0], [2.0, 0.0]])), np.zeros((2, 2)))
    with pytest.raises(LinAlgError, match="cholesky"):
        graph.run(-np.eye(2))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [0, 1, 4])
def test_a_scan_of_any_length_in_either_direction(length, reverse):
    def f(w, xs):
        last, ys = cr.scan(lambda c, x: ((c[0] * w + x, c[1] + 1), {"c": c[0], "n": c[1]}), (w, 0), xs, reverse=reverse)
        return last, ys

    xs = np.arange(1.0, length + 1)
    graph = cr.trace(f, W, xs)
    close(graph.run(W, xs), f(W, xs))
    for one, other in zip(tree.leaves(graph.run(W, xs)), tree.leaves(f(W, xs)), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
    scalar = lambda f: lambda w, xs: f(w, xs)[0][0] + cr.sum(f(w, xs)[1]["c"] ** 2)
    close(gradient(scalar(graph.run))(W, xs), gradient(scalar(f))(W, xs))
    close(gradient(directed_by(scalar(graph.run)))(W, xs), gradient(directed_by(scalar(f)))(W, xs))


def directed_by(f: Callable[..., Any]) -> Callable[..., Any]:
    return lambda w, xs: gradient(f)(w, xs)[0] * 2 + cr.sum(gradient(f)(w, xs)[1] ** 2)


def test_a_scan_without_slices_and_a_loop_that_does_not_run():
    close(cr.trace(lambda w: cr.scan(lambda c, _: (c * w, c), w, length=3), W).run(W), (W**4, np.array([W, W**2, W**3])))
    graph = cr.trace(lambda w: cr.while_loop(lambda c: c < 0, lambda c: c * w, w * w), W)
    close((graph.run(W), cr.grad(graph.run)(W)), (W * W, 2 * W))


def test_integers_in_a_carry_have_no_cotangents():
    """They are absent, not zero: nothing of their dtype is among the inputs of the step back."""
    graph = cr.trace(lambda w: cr.scan(lambda c, _: ((c[0] * w, c[1] + 1), None), (w, 0), length=3)[0][0], W).grad()
    _, back = (node for node in graph.nodes if node.primitive.name == "scan")
    assert {x.dtype.kind for x in (*back.inputs, *back.outputs)} == {"f"}
    close(graph.run(W), (4 * W**3,))


def test_long_loops_are_no_deeper_than_short_ones():
    f = lambda w: cr.while_loop(lambda c: c[1] < 3000, lambda c: (cr.sin(c[0]) * w, c[1] + 1), (w, 0))[0]
    g = lambda w: cr.scan(lambda c, _: (cr.sin(c) * w, None), w, length=3000)[0]
    close(cr.grad(cr.trace(f, W).run)(W), cr.grad(cr.trace(g, W).run)(W))


def loops_of(f: Callable[..., Any], *examples: Any) -> list[Any]:
    """The scans of a function's gradient, and the gates of their bodies."""
    scans = [node for node in cr.trace(f, *examples).grad().nodes if node.primitive.name == "scan"]
    return [(node, [inner.primitive.name for inner in node.params["body"].nodes]) for node in scans]


def recurrent(w: Any, xs: Any, step: Callable[..., Any] = lambda w, h, x: cr.tanh(h @ w + x)) -> Any:
    return cr.scan(lambda h, x: (step(w, h, x), None), xs[0], xs)[0].sum()


def test_the_step_back_computes_nothing_dear_again_and_collects_nothing_that_is_only_added_up():
    (forward, _), (back, names) = loops_of(lambda w, xs: recurrent(w, xs, lambda w, h, x: cr.tanh(w @ h + x)), np.ones((3, 3)), np.ones((5, 3)))
    assert [x.shape for x in forward.outputs[1:]] == [(5, 3), (5, 3)]
    assert set(forward.outputs[1:]) <= set(back.inputs)
    assert "tanh" not in names
    assert all(x.shape != (5, 3, 3) for x in back.outputs)


def test_what_a_pass_over_memory_gives_is_computed_again_and_not_collected():
    (forward, _), (_, names) = loops_of(lambda w, xs: recurrent(w, xs, lambda w, h, x: h * w * w + h * x), np.ones(3), np.ones((5, 3)))
    assert [x.name for x in forward.outputs[1:]] == ["h_before"]
    assert "multiply" in names


def test_a_checkpoint_in_the_body_keeps_the_carry_alone():
    step = cr.checkpoint(lambda w, h, x: cr.tanh(cr.sin(h @ w) + x))
    (forward, _), *_ = loops_of(lambda w, xs: recurrent(w, xs, step), np.ones((3, 3)), np.ones((5, 2, 3)))
    assert [x.name for x in forward.outputs[1:]] == ["h_before"]


def test_the_share_of_a_weight_in_all_steps_is_one_product_after_the_loop():
    (_, _), (back, names) = loops_of(recurrent, np.ones((3, 3)), np.ones((5, 2, 3)))
    assert (3, 3) not in [x.shape for x in back.outputs]
    assert names.count("matmul") == 1
    # Its factors would be more to keep than the sum of the products is.
    (_, _), (back, _) = loops_of(
        lambda w, h, xs: cr.scan(lambda h, x: (h, cr.sum(cr.exp(cr.exp(h * x) @ w))), h, xs)[1].sum(), *(np.ones(s) for s in ((3, 2), (9, 3), (5, 1)))
    )
    assert (3, 2) in [x.shape for x in back.outputs]


@pytest.mark.parametrize("steps", [0, 1, 4])
@pytest.mark.parametrize("reverse", [False, True])
def test_late_sums_are_the_sums_of_all_steps(steps: int, reverse: bool):
    rng = np.random.default_rng(0)
    w, v, xs, h = (rng.normal(size=shape) for shape in ((3, 3), (2, 3), (steps, 2, 2), (2, 3)))

    def loss(w: Any, v: Any, xs: Any, h: Any) -> Any:
        def step(h: Any, x: Any) -> tuple[Any, Any]:
            h = cr.tanh(h @ w + x @ v + (h * h) @ w)
            return h, cr.sum(h)

        h, sums = cr.scan(step, h, xs, reverse=reverse)
        return cr.sum(h) + cr.sum(sums**2)

    every = (0, 1, 2, 3)
    given = (w, v, xs, h)
    close(cr.grad(cr.trace(loss, *given).run, every)(*given), cr.grad(loss, every)(*given))
    close(cr.trace(loss, *given).grad(every).run(*given), cr.grad(loss, every)(*given))
    hessian = lambda f: cr.grad(lambda w, *rest: cr.sum(cr.grad(f)(w, *rest) ** 2), every)(*given)
    close(hessian(cr.trace(loss, *given).run), hessian(loss))
    close(
        cr.vmap(cr.grad(cr.trace(loss, *given).run), (None, None, None, 0))(w, v, xs, cr.stack([h, 2 * h])),
        cr.stack([cr.grad(loss)(w, v, xs, h), cr.grad(loss)(w, v, xs, 2 * h)]),
    )


SINGULAR: dict[str, Callable[[Any], Any]] = {
    "scan": lambda xs: cr.scan(lambda c, x: (c, cr.sqrt(x) * cr.log(x)), xs[1], xs)[1],
    "cond": lambda xs: cr.cond(xs[1] > 0, lambda xs: cr.sqrt(xs) * cr.log(xs), lambda xs: xs, xs),
    "while": lambda xs: cr.while_loop(lambda c: c[1] < 1, lambda c: (cr.sqrt(c[0]) * cr.log(c[0]), c[1] + 1), (xs, 0))[0],
}


@pytest.mark.parametrize("name", SINGULAR)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_where_lets_nothing_of_what_was_not_taken_out_of_inner_graphs(name):
    xs = np.array([0.0, 1.0, 4.0])
    f = lambda xs: cr.sum(cr.where(xs > 0, SINGULAR[name](xs), 0.0))
    expected = cr.grad(f)(xs)
    assert plain(expected)[0] == 0.0
    close(cr.grad(cr.trace(f, xs).run)(xs), expected)
    close(cr.trace(f, xs).grad(0).run(xs), expected)
    rest = lambda f: cr.grad(lambda xs: cr.sum(cr.grad(f)(xs)[1:]))
    close(rest(cr.trace(f, xs).run)(xs), rest(f)(xs))


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda f: f.__name__)
def test_compiled_programs_and_their_gradients(program):
    close(cr.compile(program)(XS, W), program(XS, W))
    close(cr.compile(gradient(program))(XS, W), gradient(program)(XS, W))
    close(gradient(cr.compile(program))(XS, W), gradient(program)(XS, W))
    close(cr.compile(gradient(directed(program)))(XS, W), gradient(directed(program))(XS, W))


# Batches.


def rows(f: Callable[..., Any], *columns: Any) -> Any:
    """What `vmap` should give: the examples one by one."""
    found = [tree.flatten(f(*row)) for row in zip(*columns, strict=True)]
    return found[0][1].rebuild(np.stack([plain(x) for x in column]) for column in zip(*(leaves for leaves, _ in found), strict=True))


BATCH = np.random.default_rng(2).normal(size=(5, 4))
SCALES = np.array([0.5, 0.7, 1.1, 0.6, 0.9])


@pytest.mark.parametrize("name", ["value", "gradient", "jvp", "gradient of gradient", "jvp of gradient"])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda f: f.__name__)
def test_vmap_is_a_loop_over_examples(program, name):
    f = DERIVATIVES[name](program)
    close(cr.vmap(f)(BATCH, SCALES), rows(f, BATCH, SCALES))
    close(cr.vmap(f, in_axes=(None, 0))(XS, SCALES), rows(lambda w: f(XS, w), SCALES))
    close(cr.vmap(f, in_axes=(0, None))(BATCH, W), rows(lambda x: f(x, W), BATCH))


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda f: f.__name__)
def test_the_gradient_of_a_batch_is_the_batch_of_gradients(program):
    whole = lambda xs, ws: cr.sum(cr.vmap(program)(xs, ws))
    close(gradient(whole)(BATCH, SCALES), cr.vmap(gradient(program))(BATCH, SCALES))
    close(cr.trace(gradient(whole), BATCH, SCALES).run(BATCH, SCALES), rows(gradient(program), BATCH, SCALES))


def test_batches_of_batches():
    nested = cr.vmap(cr.vmap(while_in_scan, in_axes=(None, 0)), in_axes=(0, None))
    close(nested(BATCH, SCALES), np.stack([rows(lambda w, x=x: while_in_scan(x, w), SCALES) for x in BATCH]))


def test_a_batch_with_one_condition_for_all_has_one_node():
    graph = cr.trace(lambda p, xs: cr.vmap(lambda x: cr.cond(p, cr.sin, cr.cos, x))(xs), True, XS)
    assert gates(graph) == ["cond"]
    graph = cr.trace(lambda xs: cr.vmap(lambda x: cr.while_loop(lambda c: c[1] < 3, lambda c: (c[0] * x, c[1] + 1), (x, 0))[0])(xs), XS)
    assert "where" not in str(graph)


def test_in_a_batch_what_was_not_taken_spoils_no_gradient():
    f = lambda x: cr.cond(x > 0, cr.log, lambda x: 2 * x, x)
    xs = np.array([1.0, 0.0, -2.0, 4.0])
    close(cr.vmap(f)(xs), rows(f, xs))
    close(cr.vmap(cr.grad(f))(xs), np.array([1.0, 2.0, 2.0, 0.25]))
    close(cr.grad(lambda xs: cr.sum(cr.vmap(f)(xs)))(xs), np.array([1.0, 2.0, 2.0, 0.25]))


def test_examples_that_are_done_wait_for_the_others():
    def halvings(x):
        return cr.while_loop(lambda c: c[0] > 1, lambda c: (c[0] / 2, c[1] + 1), (x, 0))

    xs = np.array([0.5, 3.0, 100.0, 8.0])
    values, counts = cr.vmap(halvings)(xs)
    close(values, rows(halvings, xs)[0])
    assert counts.tolist() == [0, 2, 7, 3]
    close(cr.vmap(cr.grad(lambda x: halvings(x)[0]))(xs), 0.5 ** np.array([0, 2, 7, 3]))


def test_draws_in_a_batch_of_loops_differ_from_example_to_example_and_count_once():
    generator = cr.random.Generator(1)
    draw = lambda _: cr.random.uniform((), generator=generator)
    step = lambda c, p: (cr.cond(p, draw, lambda c: c, c), draw(c))

    def f(x, choices):
        last, ys = cr.scan(step, x, choices)
        return last, ys, cr.while_loop(lambda c: c[1] < 2, lambda c: (draw(c[0]), c[1] + 1), (x, 0))[0]

    found = cr.vmap(f, in_axes=(0, None))(cr.ones(4), np.array([True, False, True]))
    assert len({*np.concatenate([np.ravel(x) for x in found]).tolist()}) == 4 * (1 + 3 + 1)
    assert generator.get_state().tolist() == [1, 2 + 3 + 2]


def test_a_state_that_would_differ_between_examples_is_refused():
    count = cr.tensor(0)

    def body(c):
        count.assign(count + 1)
        return c / 2

    with pytest.raises(TraceError, match="count"):
        cr.vmap(lambda x: cr.while_loop(lambda c: c > 1, body, x))(cr.tensor([3.0, 9.0]))


# Leaving out what nobody needs.


def test_prune_leaves_out_what_is_collected_for_nobody():
    graph = cr.trace(lambda w, xs: cr.scan(lambda c, x: ((c[0] * w, c[1] + x), (cr.sin(c[0]), cr.cos(x))), (w, w), xs), W, XS)
    (node,) = graph.nodes
    (w_end, sum_end), (sines, _) = graph.results.rebuild(graph.outputs)
    kept = prune(node, {sines})
    assert [x.name for x in kept.inputs] == ["w", "w"]
    assert (kept.params["carried"], kept.params["sliced"], len(kept.outputs)) == (1, 0, 2)
    assert prune(node, {sum_end}).outputs == (sum_end,)
    assert prune(node, set(node.outputs)) is node
    assert w_end in kept.outputs
    smaller = graph.with_nodes([kept], [sines])
    close(smaller.apply([cr.asarray(W), cr.asarray(XS)])[0], np.sin(W ** np.arange(1, 5)))


def test_prune_keeps_what_a_condition_reads():
    graph = cr.trace(lambda w: cr.while_loop(lambda c: c[1] < 3, lambda c: (c[0] * w, c[1] + 1, c[2] + c[0]), (w, 0, w)), W)
    (node,) = graph.nodes
    power, count, total = node.outputs
    assert prune(node, {count}).outputs == (count,)
    assert prune(node, {power}).outputs == (power, count)
    assert prune(node, {total}).outputs == (power, count, total)
    close(graph.with_nodes([prune(node, {power})], [power]).apply([cr.asarray(W)])[0], W**4)


def test_prune_of_a_choice_restricts_both_branches():
    graph = cr.trace(lambda p, x, y: cr.cond(p, lambda: (x * y, x), lambda: (y, 2 * x)), True, 1.0, 2.0)
    (node,) = graph.nodes
    kept = prune(node, {node.outputs[1]})
    assert [x.name for x in kept.inputs] == ["p", "x"]
    assert [len(kept.params[name].nodes) for name in ("true", "false")] == [0, 1]
    close(graph.with_nodes([kept], kept.outputs).apply([cr.asarray(False), cr.asarray(3.0), cr.asarray(4.0)])[0], 6.0)


# Errors.


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda x: cr.cond(x > 0, lambda: x, lambda: (x, x)), ArgumentError, "cond: true_fn returned * and false_fn (*, *)"),
        (lambda x: cr.cond(x > 0, lambda: x, lambda: cr.ones(2)), ShapeError, "part 0 of the result is float32() from true_fn and float32(2)"),
        (lambda x: cr.cond(x > 0, lambda: (x, 1), lambda: (x, x)), DtypeError, "part 1 of the result is int64() from true_fn and float32()"),
        (lambda x: cr.cond(x, lambda: x, lambda: x), DtypeError, "x > 0"),
        (lambda x: cr.while_loop(lambda c: c[None] > 0, lambda c: c, x), ShapeError, "cr.all or cr.any"),
        (lambda x: cr.while_loop(lambda c: c > 0, lambda c: (c, c), x), ArgumentError, "a carry of structure * and returned (*, *)"),
        (lambda x: cr.while_loop(lambda c: c > 0, lambda c: c > 0, x), DtypeError, "was float32() and the body returned bool()"),
        (lambda x: cr.scan(lambda c, _: (cr.stack([c, c]), None), x, length=2), ShapeError, "was float32() and the body returned float32(2)"),
        (lambda x: cr.scan(lambda c, _: c, x, length=2), ArgumentError, "f returned Tensor and not a pair"),
        (lambda x: cr.scan(lambda c, y: (c, y), x), ArgumentError, "no one number of steps"),
        (lambda x: cr.while_loop(lambda c: bool(c > 0), lambda c: c, x), TraceError, "cr.while_loop"),
    ],
)
def test_what_does_not_fit_is_told_where_it_stands(call, error, says):
    with pytest.raises(error) as caught:
        cr.trace(call, 1.0)
    assert says in str(caught.value)
    assert "test_traced_control.py" in caught.value.where


def test_gradients_that_come_and_go_in_a_body_are_told():
    w = cr.tensor(2.0, requires_grad=True)

    def accumulating(x):
        (w * x).backward()
        return x

    for call in (
        lambda x: cr.scan(lambda c, _: (accumulating(c), None), x, length=3),
        lambda x: cr.while_loop(lambda c: c < 3, accumulating, x),
        lambda x: cr.cond(x > 0, accumulating, lambda x: x, x),
        lambda x: cr.while_loop(lambda c: accumulating(c) < 3, lambda c: c, x),
    ):
        with pytest.raises(TraceError) as caught:
            cr.trace(call, 1.0)
        assert ".grad" in str(caught.value) or "the condition assigns" in str(caught.value)
    assert w.grad is None


def test_gradients_that_were_there_are_added_to():
    w = cr.tensor(2.0, requires_grad=True)

    def accumulating(x):
        (w * x).backward()
        return x + 1

    w.grad = cr.tensor(10.0)
    f = lambda x: cr.scan(lambda c, _: (accumulating(c), None), x, length=3)[0]
    cr.trace(f, 1.0).run(1.0)
    assert w.grad.item() == 10 + 1 + 2 + 3
    g = lambda x: cr.cond(x > 5, accumulating, lambda x: x, x)
    graph = cr.trace(g, 1.0)
    graph.run(1.0)
    assert w.grad.item() == 16
    graph.run(6.0)
    assert w.grad.item() == 22


def test_an_error_inside_names_its_gate_and_leaves_everything_as_it_was():
    count = cr.tensor(0)

    def body(c):
        count.assign(count + 1)
        return cr.linalg.inv(c) - 1

    graph = cr.trace(lambda x: cr.while_loop(lambda c: cr.sum(c) < 100, body, x), np.eye(2))
    with pytest.raises(LinAlgError, match="inv"):
        graph.run(np.ones((2, 2)))
    with pytest.raises(ChainruleError):
        cr.trace(lambda x: cr.scan(lambda c, _: (body(c), float(cr.sum(c))), x, length=2), np.eye(2))
    assert count.item() == 0


def test_verify_looks_at_inner_graphs():
    """A body that changes the carry, and a graph of other inputs, are found."""
    graph = cr.trace(lambda w: cr.scan(lambda c, _: (c * w, c), w, length=3), W)
    (node,) = graph.nodes
    other = cr.trace(lambda c, w: (c[None], c), W, W)
    for body in (other, cr.trace(lambda c: (c, c), W)):
        wrong = graph.with_nodes([replace(node, params={**node.params, "body": body})], graph.outputs)
        with pytest.raises(TraceError, match=r"scan: its graph f (takes|gives)"):
            wrong.verify()
