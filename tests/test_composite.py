"""Softmax, normalisation and cross-entropies beyond what is generated from the table: stability, conventions, PyTorch's numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.core.errors import ArgumentError, DtypeError, ShapeError
from chainrule.core.primitive import TABLE


def numpy(x: Any) -> Any:
    return np.asarray(x.detach()) if isinstance(x, cr.Tensor) else np.asarray(x)


def close(x: Any, y: Any, tolerance: float = 1e-9) -> None:
    np.testing.assert_allclose(numpy(x), numpy(y), rtol=tolerance, atol=tolerance)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_softmax_of_large_scores_neither_overflows_nor_loses_small_ones():
    x = np.array([1e4, 0.0, -1e4])
    close(cr.softmax(x), [1.0, 0.0, 0.0])
    close(cr.log_softmax(x), [0.0, -1e4, -2e4])
    close(cr.softmax(x.astype(np.float32)), [1.0, 0.0, 0.0])


def test_an_impossible_class_has_probability_zero_and_no_gradient():
    x = cr.tensor([0.0, -np.inf, 0.0], requires_grad=True)
    (cr.softmax(x) * cr.tensor([1.0, 2.0, 3.0])).sum().backward()
    close(x.grad, [-0.5, 0.0, 0.5])
    x.grad = None
    cr.softmax_cross_entropy(x, 0).backward()
    close(x.grad, [-0.5, 0.0, 0.5])


def test_an_impossible_class_costs_nothing_where_its_target_is_zero():
    x, targets = np.array([0.0, -np.inf, 0.0]), np.array([0.25, 0.0, 0.75])
    close(cr.softmax_cross_entropy(x, targets), np.log(2))


def test_softmax_over_several_axes_sums_to_one_over_them(rng):
    x = rng.normal(size=(2, 3, 4))
    close(cr.sum(cr.softmax(x, axis=(0, -1)), axis=(0, 2)), np.ones(3))
    close(cr.exp(cr.log_softmax(x, axis=(0, -1))), cr.softmax(x, axis=(0, -1)))


def test_rules_keep_little():
    assert TABLE["softmax"].saves == TABLE["log_softmax"].saves == TABLE["standardize"].saves == ("out",)
    assert TABLE["softmax_cross_entropy"].saves == ("logits", "labels")


def test_gradient_of_cross_entropy_is_softmax_less_labels(rng):
    scores, labels = cr.tensor(rng.normal(size=(5, 4)), requires_grad=True), rng.integers(0, 4, 5)
    cr.softmax_cross_entropy(scores, labels, reduction="sum").backward()
    close(scores.grad, numpy(cr.softmax(scores)) - np.eye(4)[labels])


def test_integer_labels_are_one_hot_probabilities(rng):
    scores, labels = rng.normal(size=(5, 3, 4)), rng.integers(0, 4, (5, 3))
    for options in ({}, {"reduction": "sum"}, {"reduction": "none"}, {"label_smoothing": 0.3}):
        one_hot = np.eye(4)[labels]
        ours, pull = cr.vjp(lambda s, o=options: cr.softmax_cross_entropy(s, labels, **o), scores)
        soft, pull_soft = cr.vjp(lambda s, o=options, p=one_hot: cr.softmax_cross_entropy(s, p, **o), scores)
        close(ours, soft)
        ct = np.ones(ours.shape)
        close(pull(ct)[0], pull_soft(ct)[0])
        close(cr.softmax_cross_entropy(np.moveaxis(scores, -1, 1), labels, axis=1, **options), ours)


def test_labels_of_every_integer_dtype_and_numbers_out_of_range(rng):
    scores = rng.normal(size=(3, 4))
    expected = cr.softmax_cross_entropy(scores, np.array([0, 3, 1]))
    for dtype in (np.uint8, np.int32, np.uint64):
        close(cr.softmax_cross_entropy(scores, np.array([0, 3, 1], dtype)), expected)
    for labels in ([0, 4, 1], [0, -1, 1]):
        with pytest.raises(ArgumentError, match=r"labels must lie in 0\.\.3"):
            cr.softmax_cross_entropy(scores, labels)
    with pytest.raises(ShapeError, match=r"integer labels have the shape of the logits without the class axis, \(3,\)"):
        cr.softmax_cross_entropy(scores, [[0], [3], [1]])
    with pytest.raises(DtypeError, match="not integers"):
        cr.softmax_cross_entropy(scores, [True, False, True])


def test_sigmoid_cross_entropy_is_stable_and_its_gradient_is_sigmoid_less_target(rng):
    x, t = cr.tensor([-1e3, 0.0, 1e3], requires_grad=True), np.array([1.0, 0.5, 1.0], np.float32)
    losses = cr.sigmoid_cross_entropy(x, t, reduction="none")
    close(losses, [1e3, np.log(2), 0.0], 1e-6)
    losses.sum().backward()
    close(x.grad, [-1.0, 0.0, 0.0])


def test_layer_norm_gives_every_row_mean_zero_and_variance_one(rng):
    x = rng.normal(3.0, 5.0, size=(4, 7))
    y = numpy(cr.layer_norm(x, epsilon=0.0))
    close(y.mean(axis=1), np.zeros(4))
    close(y.var(axis=1), np.ones(4))
    w, b = rng.normal(size=7), rng.normal(size=7)
    close(cr.layer_norm(x, w, b, epsilon=0.0), y * w + b)
    with pytest.raises(ShapeError, match="weight"):
        cr.layer_norm(x, np.ones(6))


def test_a_constant_row_is_normalised_to_zero():
    x = cr.tensor([[2.0, 2.0, 2.0]], requires_grad=True)
    y = cr.layer_norm(x)
    close(y, np.zeros((1, 3)))
    (y * cr.tensor([1.0, 2.0, 4.0])).sum().backward()
    assert np.isfinite(numpy(x.grad)).all()


def test_batch_norm_returns_the_statistics_that_it_used(rng):
    x = rng.normal(size=(6, 5, 3))
    y, mean, var = cr.batch_norm(x, epsilon=0.0)
    close(mean, x.mean(axis=(0, 1)))
    close(var, x.var(axis=(0, 1)))
    close(y, (x - x.mean(axis=(0, 1))) / x.std(axis=(0, 1)))
    _, mean, _ = cr.batch_norm(np.moveaxis(x, -1, 1), axis=(0, 2))
    close(mean, x.mean(axis=(0, 1)))


@pytest.mark.parametrize("part", [0, 1, 2])
def test_gradients_of_each_part_of_batch_norm(rng, part):
    x = rng.normal(size=(4, 3))
    cr.gradcheck(lambda x: cr.batch_norm(x)[part], (x,))
    cr.gradgradcheck(lambda x: cr.batch_norm(x)[part], (x,))


def test_agreement_with_pytorch(rng):
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
    f = torch.nn.functional
    x, labels, p = rng.normal(size=(4, 5, 3)), rng.integers(0, 5, (4, 3)), rng.dirichlet(np.ones(5), (4, 3))
    w, b, t = rng.normal(size=3), rng.normal(size=3), rng.uniform(size=(4, 5, 3))
    pairs = {
        "softmax": (lambda x: cr.softmax(x, axis=1), lambda x: f.softmax(x, dim=1)),
        "log_softmax": (lambda x: cr.log_softmax(x, axis=1), lambda x: f.log_softmax(x, dim=1)),
        "labels": (lambda x: cr.softmax_cross_entropy(x, labels, axis=1), lambda x: f.cross_entropy(x, torch.tensor(labels))),
        "smoothed": (
            lambda x: cr.softmax_cross_entropy(x, labels, axis=1, label_smoothing=0.1, reduction="none"),
            lambda x: f.cross_entropy(x, torch.tensor(labels), label_smoothing=0.1, reduction="none"),
        ),
        "probabilities": (
            lambda x: cr.softmax_cross_entropy(x, np.moveaxis(p, -1, 1), axis=1, label_smoothing=0.1),
            lambda x: f.cross_entropy(x, torch.tensor(np.moveaxis(p, -1, 1).copy()), label_smoothing=0.1),
        ),
        "sigmoid": (lambda x: cr.sigmoid_cross_entropy(x, t), lambda x: f.binary_cross_entropy_with_logits(x, torch.tensor(t))),
        "layer_norm": (lambda x: cr.layer_norm(x, w, b), lambda x: f.layer_norm(x, (3,), torch.tensor(w), torch.tensor(b))),
        "batch_norm": (lambda x: cr.batch_norm(x, axis=(0, 2))[0], lambda x: f.batch_norm(x, None, None, training=True)),
    }
    for name, (ours, theirs) in pairs.items():
        tx = torch.tensor(x, requires_grad=True)
        expected = theirs(tx)
        ct = rng.normal(size=expected.shape)
        (gx,) = torch.autograd.grad(expected, [tx], torch.tensor(ct))
        out, pull = cr.vjp(ours, x)
        np.testing.assert_allclose(numpy(out), expected.detach().numpy(), rtol=1e-9, atol=1e-9, err_msg=name)
        np.testing.assert_allclose(numpy(pull(ct)[0]), gx.numpy(), rtol=1e-8, atol=1e-9, err_msg=name)
