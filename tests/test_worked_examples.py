"""The numbers that the lectures print, by their number."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn, optim


def leaf(value, dtype=cr.float64):
    return cr.tensor(value, dtype=dtype, requires_grad=True)


def close(got, expected, tolerance=1e-12):
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=tolerance, atol=tolerance)


def two_places(*values):
    return [round(float(value), 2) for value in values]


def test_E01_product_of_a_sum():
    x, y, z = leaf(-2.0), leaf(5.0), leaf(-4.0)
    q = x + y
    q.retain_grad()
    f = q * z
    f.backward()
    assert (q.item(), f.item()) == (3, -12)
    assert (q.grad.item(), z.grad.item(), x.grad.item(), y.grad.item()) == (-4, 3, -4, -4)


def neuron_inputs():
    return [leaf(v) for v in (2.0, -3.0, -3.0, -1.0, -2.0)]


def leaf_gradients(w0, w1, w2, x0, x1):
    return two_places(w2.grad, w0.grad, x0.grad, w1.grad, x1.grad)


def test_E02_neuron_from_small_gates():
    w0, w1, w2, x0, x1 = neuron_inputs()
    steps = [w0 * x0, w1 * x1]
    steps.append(steps[0] + steps[1])
    steps.append(steps[2] + w2)
    steps.append(steps[3] * -1.0)
    steps.append(cr.exp(steps[4]))
    steps.append(steps[5] + 1.0)
    steps.append(cr.reciprocal(steps[6]))
    for step in steps:
        step.retain_grad()
    steps[-1].backward()
    assert two_places(*steps) == [-2, 6, 4, 1, -1, 0.37, 1.37, 0.73]
    assert two_places(*(step.grad for step in steps[:2:-1])) == [1, -0.53, -0.53, -0.20, 0.20]
    assert leaf_gradients(w0, w1, w2, x0, x1) == [0.20, -0.20, 0.39, -0.39, -0.59]


def test_E03_neuron_with_one_sigmoid_gate():
    w0, w1, w2, x0, x1 = neuron_inputs()
    s3 = w0 * x0 + w1 * x1 + w2
    s3.retain_grad()
    loss = cr.sigmoid(s3)
    loss.backward()
    assert two_places(loss, s3.grad) == [0.73, 0.20]
    close(s3.grad, (1 - loss.item()) * loss.item())
    assert leaf_gradients(w0, w1, w2, x0, x1) == [0.20, -0.20, 0.39, -0.39, -0.59]


@pytest.mark.parametrize(
    ("gate", "inputs", "upstream", "gradients"),
    [
        pytest.param(cr.add, (3.0, 4.0), 2.0, (2.0, 2.0), id="add-distributes"),
        pytest.param(cr.multiply, (2.0, 3.0), 5.0, (15.0, 10.0), id="mul-swaps"),
        pytest.param(cr.maximum, (4.0, 5.0), 9.0, (0.0, 9.0), id="max-routes"),
    ],
)
def test_E04_patterns_of_gates(gate, inputs, upstream, gradients):
    leaves = [leaf(v) for v in inputs]
    gate(*leaves).backward(cr.tensor(upstream, dtype=cr.float64))
    assert tuple(x.grad.item() for x in leaves) == gradients


def test_E04_copy_adds():
    x = leaf(7.0)
    cr.autograd.backward([x * 1.0, x * 1.0], [cr.tensor(4.0), cr.tensor(2.0)])
    assert x.grad.item() == 6


def test_E05_relu_never_forms_its_jacobian():
    x = leaf([1.0, -2.0, 3.0, -1.0])
    y = cr.relu(x)
    y.backward([4.0, -1.0, 5.0, 9.0])
    assert y.tolist() == [1, 0, 3, 0]
    assert x.grad.tolist() == [4, 0, 5, 0]
    assert cr.grad(cr.relu)(0.0).item() == 0


def test_E06_matrix_product():
    x = leaf([[2.0, 1, -3], [-3, 4, 2]])
    w = leaf([[3.0, 2, 1, -1], [2, 1, 3, 2], [3, 2, 1, -2]])
    ct = np.array([[2.0, 3, -3, 9], [-8, 1, 4, 6]])
    y = x @ w
    y.backward(ct)
    assert y.tolist() == [[-1, -1, 2, 6], [5, 2, 11, 7]]
    assert x.grad.tolist() == [[0, 16, -9], [-24, 9, -30]]
    assert w.grad.tolist() == (np.asarray(x.detach()).T @ ct).tolist()


MEASURE = """
import tracemalloc, numpy as np, chainrule as cr
tracemalloc.start()
{setup}
tracemalloc.reset_peak()
before = tracemalloc.get_traced_memory()[1]
{work}
print(tracemalloc.get_traced_memory()[1] - before)
"""


def peak_growth(setup, work):
    """Bytes by which the peak memory of a fresh process grows during ``work``."""
    done = subprocess.run([sys.executable, "-c", MEASURE.format(setup=setup, work=work)], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_E07_products_stay_at_the_size_of_their_operands():
    operands = (64 * 4096 + 4096 * 4096 + 64 * 4096) * 4
    growth = peak_growth(
        "x = cr.random.normal((64, 4096)).requires_grad_(); w = cr.random.normal((4096, 4096)).requires_grad_()",
        "y = x @ w; y.backward(cr.ones((64, 4096)))",
    )
    assert growth < 1.5 * operands


def test_E08_squared_norm_of_a_linear_map():
    W, x = leaf([[0.1, 0.5], [-0.3, 0.8]]), leaf([0.2, 0.4])
    q = W @ x
    q.retain_grad()
    f = cr.sum(q * q)
    f.backward()
    close(q, [0.22, 0.26])
    close(f, 0.116)
    close(q.grad, [0.44, 0.52])
    close(W.grad, [[0.088, 0.176], [0.104, 0.208]])
    close(x.grad, [-0.112, 0.636])


def test_E09_jacobian_by_rows_and_by_columns():
    x = np.random.default_rng(9).normal(size=3)

    def f(x):
        return cr.stack([x[0] - x[1] ** 2, x[0] * x[2]])

    expected = np.array([[1, -2 * x[1], 0], [x[2], 0, x[0]]])
    _, pull = cr.vjp(f, x)
    close(np.stack([pull(row)[0] for row in np.eye(2)]), expected)
    close(np.stack([cr.jvp(f, (x,), (column,))[1] for column in np.eye(3)], axis=1), expected)


def test_E10_mean_and_variance():
    x = np.random.default_rng(10).normal(size=7)
    close(cr.grad(cr.mean)(x), np.full(7, 1 / 7))
    close(cr.grad(cr.var)(x), 2 * (x - x.mean()) / 7)


def test_E11_half_a_sum_of_squares():
    a = cr.random.uniform((100,))
    a.requires_grad_()
    (0.5 * (a**2).sum()).backward()
    close(a.grad, a.detach(), 1e-7)


def test_E12_linear_regression():
    rng = np.random.default_rng(12)
    w, b, x, y = rng.normal(size=5), rng.normal(size=()), rng.normal(size=5), rng.normal(size=())
    gw, gb = cr.grad(lambda w, b: (cr.sum(w * x) + b - y) ** 2, argnums=(0, 1))(w, b)
    z = w @ x + b - y
    close(gw, 2 * z * x)
    close(gb, 2 * z)


def test_E13_softmax_cross_entropy():
    rng = np.random.default_rng(13)
    W, b, x, labels = rng.normal(size=(3, 4)), rng.normal(size=4), rng.normal(size=(6, 3)), rng.integers(0, 4, 6)
    scores = cr.tensor(x @ W + b, requires_grad=True)
    cr.softmax_cross_entropy(scores, labels, reduction="sum").backward()
    softmax = np.exp(x @ W + b) / np.exp(x @ W + b).sum(axis=1, keepdims=True)
    close(scores.grad, softmax - np.eye(4)[labels])


def test_E14_multiclass_hinge_loss():
    rng = np.random.default_rng(14)
    s, y, reg = rng.normal(size=(5, 4)), rng.integers(0, 4, 5), 0.1
    rows = np.arange(5)

    def loss(s):
        margins = cr.relu(s - cr.expand_dims(s[rows, y], axis=1) + 1.0)
        return cr.sum(margins) - 5.0 + reg * cr.sum(s**2)

    violating = (s - s[rows, y][:, None] + 1 > 0) & (np.arange(4) != y[:, None])
    expected = violating.astype(float)
    expected[rows, y] = -violating.sum(axis=1)
    close(cr.grad(loss)(s), expected + 2 * reg * s)


def test_E15_paw_network():
    def network(x):
        hidden = cr.relu(cr.tensor([-1.0, 1.0]) * x + cr.tensor([0.5, -0.5]))
        return cr.sum(cr.tensor([2.0, 2.0]) * hidden) - 0.5

    assert [network(cr.tensor(x)).item() for x in (1.0, 0.0, 0.5)] == [0.5, 0.5, -0.5]


def test_E15_xor_is_learned_by_a_network_with_a_hidden_layer():
    cr.manual_seed(3)
    x = cr.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    labels = cr.tensor([0, 1, 1, 0])
    model = nn.Sequential([nn.Dense(8, activation="relu"), nn.Dense(2)])
    model(x)
    optimizer = optim.Adam(model.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        nn.losses.softmax_cross_entropy(model(x), labels).backward()
        optimizer.step()
    assert cr.argmax(model(x), axis=1).tolist() == labels.tolist()


def test_E16_chain_from_kept_and_from_recomputed_values():
    again = np.cos(np.sin(np.sin(0.7))) * np.cos(np.sin(0.7)) * np.cos(0.7)
    for f in (cr.sin, cr.checkpoint(cr.sin)):
        w = leaf(0.7)
        x = f(w)
        y = f(x)
        f(y).backward()
        close(w.grad, again)


def test_E16_recomputed_values_take_less_memory():
    setup = "w = cr.tensor(np.ones(5_000_000), requires_grad=True); f = {wrap}(lambda x: cr.sin(cr.sin(cr.sin(cr.sin(cr.sin(x))))))"
    kept, recomputed = (peak_growth(setup.format(wrap=wrap), "cr.sum(f(f(f(f(w))))).backward()") for wrap in ("", "cr.checkpoint"))
    # Twenty values of 40 MB, or four inputs and the five values of one stretch; both with a few of the sweep.
    assert kept > 20 * 40_000_000
    assert recomputed < 13 * 40_000_000


def test_E17_hessian_vector_product_and_gradient_penalty():
    rng = np.random.default_rng(17)
    A = rng.normal(size=(4, 4))
    x, v = rng.normal(size=4), rng.normal(size=4)

    def loss(x):
        return cr.sum(cr.exp(A @ x))

    hessian = A.T @ np.diag(np.exp(A @ x)) @ A
    close(cr.grad(lambda x: cr.sum(cr.grad(loss)(x) * v))(x), hessian @ v, 1e-10)
    close(cr.jvp(cr.grad(loss), (x,), (v,))[1], hessian @ v, 1e-10)
    leaf_x = leaf(x)
    (g,) = cr.autograd.grad(loss(leaf_x), [leaf_x], create_graph=True)
    cr.sum(g * g).backward()
    close(leaf_x.grad, 2 * hessian @ (A.T @ np.exp(A @ x)), 1e-10)


def test_E18_convolution_in_memory_of_its_operands():
    operands = (1024 * 1024 * 3 + 3 * 3 * 3 * 64 + 1024 * 1024 * 64) * 4
    growth = peak_growth(
        "x = cr.random.normal((1, 1024, 1024, 3)).requires_grad_(); w = cr.random.normal((3, 3, 3, 64)).requires_grad_()",
        "y = cr.conv(x, w, padding='same'); y.backward(cr.ones(y.shape))",
    )
    assert growth < 2.5 * operands


def test_E19_products_in_any_order_give_the_same_jacobian():
    sizes = (5, 3, 4, 2)
    rng = np.random.default_rng(19)
    matrices = [rng.normal(size=pair) for pair in itertools.pairwise(sizes)]
    x = rng.normal(size=5)

    def f(x):
        for matrix in matrices:
            x = cr.tanh(x @ matrix)
        return x

    _, pull = cr.vjp(f, x)
    rows = np.stack([pull(row)[0] for row in np.eye(2)])
    columns = np.stack([cr.jvp(f, (x,), (column,))[1] for column in np.eye(5)], axis=1)
    close(rows, columns)


def test_peak_memory_is_told_in_bytes_that_can_be_seen():
    """The measurement behind E7 and E18 notices an array of known size."""
    assert peak_growth("pass", "a = np.ones(50_000_000)") > 300_000_000
